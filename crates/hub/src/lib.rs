//! Live feeds: publish, subscribe, GOP ring, takeover and the skip rule.

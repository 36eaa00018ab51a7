//! Points in time as RFC 3339 has them, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::date::civil;

const DAY: u64 = 86_400;

/// Milliseconds since 1970.
pub(super) fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-11-23T07:10:11.042Z`. Later times are greater texts.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let millis = unix_millis(time);
    let (seconds, millis) = (millis / 1_000, millis % 1_000);
    // Milliseconds in 64 bits are no more days than that.
    let (year, month, day) = civil((seconds / DAY) as i64);
    let (hour, minute, second) = (seconds % DAY / 3_600, seconds % 3_600 / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates() {
        // By `date -u -d @SECONDS`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.042Z"),
            (951_782_399, "2000-02-28T23:59:59.042Z"),
            (951_782_400, "2000-02-29T00:00:00.042Z"),
            (951_868_800, "2000-03-01T00:00:00.042Z"),
            (1_795_417_811, "2026-11-23T07:10:11.042Z"),
            (4_107_542_400, "2100-03-01T00:00:00.042Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + 42);
            assert_eq!(rfc3339(time), text);
        }
    }
}

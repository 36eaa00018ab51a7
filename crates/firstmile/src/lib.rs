//! firstmile.

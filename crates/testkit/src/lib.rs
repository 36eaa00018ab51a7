//! Development only: fixtures, runners for real clients, load.

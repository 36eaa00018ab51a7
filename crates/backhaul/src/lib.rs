//! Sans-IO protocol between relay and studio: admission, announce, subscribe, positions.

//! Whole projects, good and bad.

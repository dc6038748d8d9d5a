//! larder-storage

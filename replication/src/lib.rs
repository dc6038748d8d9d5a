//! larder-replication

//! larder-loader

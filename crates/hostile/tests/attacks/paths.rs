//! Addresses, connection ids and keys.

//! Hostile servers, against a client of the handles.

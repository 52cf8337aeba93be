//! The code of the book in `docs/book`, chapter by chapter. `snippets` checks that the book shows
//! what is here.

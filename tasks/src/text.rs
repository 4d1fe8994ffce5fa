//! Tasks on text.

mod charset;
pub mod count;

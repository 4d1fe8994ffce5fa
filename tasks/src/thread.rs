//! `thread.*`: operating-system threads, and what keeps them in step.

pub mod define;

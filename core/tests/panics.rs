//! The panic hook belongs to the whole process, so its test has a process to itself.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::io;
use std::sync::{Arc, Mutex};

use tidemill_core::settings::Settings;
use tidemill_core::telemetry::{self, TextStyle};

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_panic_is_one_line_of_the_log_with_thread_and_place() {
    let page = Page::default();
    let writer = page.clone();
    telemetry::init(&Settings::default().log, TextStyle::default(), move || writer.clone()).unwrap();

    let thread = std::thread::Builder::new().name("rayon-3".into());
    thread.spawn(|| panic!("no item {}", 7)).unwrap().join().unwrap_err();

    let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("ERROR panicked thread=\"rayon-3\" location=\"core/tests/panics.rs:"), "{text}");
    assert!(text.ends_with("error=\"no item 7\"\n"), "{text}");
}

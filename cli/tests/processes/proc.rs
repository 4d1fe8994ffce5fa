//! What the system tells of processes, from `/proc`.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// `R`, `S`, `T`, `Z` …
    pub(crate) state: char,
    command: String,
}

impl Process {
    fn at(folder: &Path) -> Option<Self> {
        let pid = folder.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        // The command's name stands in brackets and may hold anything.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let (state, parent) = (fields.next()?.chars().next()?, fields.next()?.parse().ok()?);
        let command = std::fs::read_to_string(folder.join("cmdline")).unwrap_or_default().replace('\0', " ");
        Some(Self { pid, parent, state, command })
    }

    /// Whether all its threads are stopped: before that the system does not count it as stopped, and wakes it for no
    /// parent that ends.
    pub(crate) fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap().flatten();
        threads.filter_map(|thread| Self::at(&thread.path())).all(|thread| thread.state == 'T')
    }

    /// Whether it is a child of a task.
    pub(crate) fn is_child(&self) -> bool {
        self.command.contains(" __child ")
    }
}

fn folders() -> impl Iterator<Item = std::path::PathBuf> {
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()))
}

/// The children of a process, those that have ended and were not waited for included.
pub(crate) fn children_of(parent: u32) -> Vec<Process> {
    folders().filter_map(|folder| Process::at(&folder)).filter(|process| process.parent == parent).collect()
}

/// The processes that have this mark in their environment.
pub(crate) fn marked(mark: &str) -> Vec<Process> {
    let wanted = format!("TIDEMILL_TEST_MARK={mark}\0");
    let has_mark = |folder: &std::path::PathBuf| {
        let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
        environment.windows(wanted.len()).any(|window| window == wanted.as_bytes())
    };
    folders().filter(has_mark).filter_map(|folder| Process::at(&folder)).collect()
}

/// Sends a signal.
pub(crate) fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// What a process holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    descriptors: usize,
    threads: usize,
    /// Pages of memory that it shares with children.
    shared_pages: usize,
    /// Segments of memory that have a name, of ours.
    segments: usize,
}

impl Resources {
    /// Of this process.
    pub(crate) fn now() -> Self {
        Self::of(std::process::id())
    }

    /// Of a process of ours.
    pub(crate) fn of(pid: u32) -> Self {
        let count = |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let segments = std::fs::read_dir("/dev/shm").map_or(0, |entries| {
            entries
                .filter(|entry| entry.as_ref().is_ok_and(|entry| is_ours(&entry.file_name().to_string_lossy())))
                .count()
        });
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            shared_pages: maps.matches("memfd:tidemill").count(),
            segments,
        }
    }

    /// Whether nothing was added to what there was.
    pub(crate) fn is_within(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.shared_pages <= before.shared_pages
            && self.segments <= before.segments
    }
}

fn is_ours(name: &str) -> bool {
    name.contains("tidemill")
}

/// A moment between two looks at something that other processes do.
pub(crate) fn breathe() {
    #[expect(clippy::disallowed_methods, reason = "other processes have no way to wake this one")]
    std::thread::sleep(Duration::from_millis(5));
}

/// Waits for something that other processes do, while this one goes on.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool, what: &str) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(30), "it never comes that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

//! Stand-ins for networks, for tests of what is around them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use tch::{Kind, TchError, Tensor};
use tokio::sync::{Semaphore, oneshot};

use super::*;

/// A picture that wants `top` classes, and where its answer comes.
pub(super) fn request(top: usize) -> (Request, oneshot::Receiver<(Answer, OwnedSemaphorePermit)>) {
    let (answer, answered) = oneshot::channel();
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    (
        Request { pixels: Vec::new(), priority: Priority::default(), top, arrived: Instant::now(), answer, place },
        answered,
    )
}

/// A network of ten classes over a picture of one pixel, whose red is the class. It fails as networks and devices do.
pub(super) struct Double {
    /// The most pictures for which its device has memory.
    pub(super) room: usize,
    /// The class that it fails on.
    pub(super) bad: Option<u8>,
    /// The class that it panics on.
    pub(super) panics: Option<u8>,
    /// The class that loses the device.
    pub(super) killer: Option<u8>,
    /// How many pictures each run had.
    pub(super) runs: Arc<Mutex<Vec<usize>>>,
    /// Whether its device is lost.
    pub(super) is_lost: Mutex<bool>,
    /// What each run waits at.
    pub(super) gate: Option<Mutex<Receiver<()>>>,
}

impl Default for Double {
    fn default() -> Self {
        let (bad, panics, killer) = (None, None, None);
        Self { room: usize::MAX, bad, panics, killer, runs: Arc::default(), is_lost: Mutex::default(), gate: None }
    }
}

impl Double {
    /// None of its runs goes on before the gate is dropped.
    pub(super) fn gated(mut self) -> (Self, Sender<()>) {
        let (open, gate) = channel();
        self.gate = Some(Mutex::new(gate));
        (self, open)
    }

    fn failed<T>(reason: &str) -> Result<T, TchError> {
        Err(TchError::Torch(format!("{reason}\nat some address in C++")))
    }
}

impl Forward for Double {
    fn forward(&self, pixels: &[u8], count: i64) -> Result<Tensor, TchError> {
        let reds: Vec<u8> = pixels.iter().copied().step_by(3).collect();
        lock(&self.runs).push(reds.len());
        if let Some(gate) = &self.gate {
            assert!(lock(gate).recv().is_err(), "a gate is dropped, and nothing goes through it");
        }
        assert!(!reds.iter().any(|red| Some(*red) == self.panics), "seven is unlucky");
        if reds.iter().any(|red| Some(*red) == self.killer) {
            *lock(&self.is_lost) = true;
        }
        self.probe()?;
        if reds.len() > self.room {
            return Self::failed("CUDA out of memory. Tried to allocate 20.00 MiB");
        }
        if reds.iter().any(|red| Some(*red) == self.bad) {
            return Self::failed("it is bad");
        }
        let output = Tensor::zeros([count, 10], (Kind::Float, tch::Device::Cpu));
        for (row, red) in (0..).zip(&reds) {
            let _filled = output.get(row).get(i64::from(*red)).f_fill_(1.0)?;
        }
        Ok(output)
    }

    fn probe(&self) -> Result<(), TchError> {
        if *lock(&self.is_lost) { Self::failed("CUDA error: an illegal memory access was encountered") } else { Ok(()) }
    }
}

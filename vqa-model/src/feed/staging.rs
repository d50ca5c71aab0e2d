//! Memory from which batches are copied to a device.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::feed::cuda::{Cuda, Pinned, PinnedBytes};
use crate::feed::pieces::Pieces;
use crate::feed::sent::{BatchLayout, SentBatch};

/// Buffers that take turns: the pieces of a batch are written to one of them, one after the other, and copied to the
/// device together.
#[derive(Debug)]
pub(super) struct Staging {
    device: Device,
    /// `None` on a CPU.
    cuda: Option<Cuda>,
    buffers: Vec<Option<StagingBuffer>>,
    next: usize,
}

#[derive(Debug)]
enum StagingBuffer {
    Pinned(Pinned),
    /// On a CPU. 64-bit words, so that the start is aligned for every number type.
    Plain(Vec<u64>),
}

/// A buffer that nothing reads from any more.
enum WritableBuffer<'a> {
    Pinned(PinnedBytes<'a>),
    Plain(&'a mut [u64]),
}

impl Staging {
    pub(super) fn new(device: Device, cuda: Option<Cuda>, n_buffers: usize) -> Staging {
        Staging { device, cuda, buffers: (0..n_buffers).map(|_| None).collect(), next: 0 }
    }

    /// Waits for a buffer to be free, adding the time to `waited`, and queues a copy of the pieces to the device,
    /// ahead of everything that is computed afterwards.
    pub(super) fn send(&mut self, pieces: &Pieces, waited: &mut Duration) -> Result<SentBatch, String> {
        let layout = BatchLayout::new(pieces);
        let device = self.device;
        let mut buffer = self.next_buffer(layout.size, waited)?;
        for (i, piece) in pieces.list.iter().enumerate() {
            piece.write(&mut buffer.bytes_mut()[layout.range(i)]);
        }
        let block = buffer.copy_to(device, layout.size)?;
        Ok(SentBatch::new(block, layout))
    }

    /// The next buffer, of at least this size, once the GPU has read what was in it.
    fn next_buffer(&mut self, size: usize, waited: &mut Duration) -> Result<WritableBuffer<'_>, String> {
        let n_buffers = self.buffers.len();
        let buffer = &mut self.buffers[self.next];
        self.next = (self.next + 1) % n_buffers;
        if buffer.as_ref().is_some_and(|buffer| buffer.len() < size) {
            // Freeing it waits for the GPU too.
            let tic = Instant::now();
            *buffer = None;
            *waited += tic.elapsed();
        }
        if buffer.is_none() {
            // A little more, as the next batch may be a little larger.
            let size = size + size / 8;
            *buffer = Some(match &self.cuda {
                Some(cuda) => StagingBuffer::Pinned(Pinned::new(cuda, size)?),
                None => StagingBuffer::Plain(vec![0; size.div_ceil(8)]),
            });
        }
        match buffer.as_mut().expect("made above") {
            StagingBuffer::Pinned(pinned) => {
                let tic = Instant::now();
                let bytes = pinned.wait()?;
                *waited += tic.elapsed();
                Ok(WritableBuffer::Pinned(bytes))
            }
            StagingBuffer::Plain(words) => Ok(WritableBuffer::Plain(words)),
        }
    }
}

impl StagingBuffer {
    /// The length in bytes.
    fn len(&self) -> usize {
        match self {
            StagingBuffer::Pinned(pinned) => pinned.len(),
            StagingBuffer::Plain(words) => size_of_val(&words[..]),
        }
    }
}

impl WritableBuffer<'_> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            WritableBuffer::Pinned(bytes) => bytes.as_mut_slice(),
            WritableBuffer::Plain(words) => bytemuck::cast_slice_mut(words),
        }
    }

    /// Copies the first `size` bytes to a new tensor on the device.
    fn copy_to(self, device: Device, size: usize) -> Result<Tensor, String> {
        match self {
            WritableBuffer::Pinned(bytes) => {
                let block = Tensor::empty([size as i64], (Kind::Uint8, device));
                bytes.copy_to(&block)?;
                Ok(block)
            }
            WritableBuffer::Plain(words) => Ok(Tensor::from_slice(&bytemuck::cast_slice::<u64, u8>(words)[..size])),
        }
    }
}

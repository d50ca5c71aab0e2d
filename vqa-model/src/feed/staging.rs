//! Memory from which batches are copied to a device.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::feed::cuda::{Cuda, Pinned};
use crate::feed::pieces::{N_PIECES, Piece};

/// Memory in which batches are laid together, and from which they are copied to a device, in turn.
#[derive(Debug)]
pub(super) struct Staging {
    device: Device,
    /// Nothing on a CPU.
    cuda: Option<Cuda>,
    buffers: Vec<Option<StagingBuffer>>,
    next: usize,
}

#[derive(Debug)]
enum StagingBuffer {
    Pinned(Pinned),
    /// On a CPU; whole words, so that any number may begin at the start.
    Plain(Vec<u64>),
}

impl Staging {
    pub(super) fn new(device: Device, cuda: Option<Cuda>, n_buffers: usize) -> Staging {
        Staging { device, cuda, buffers: (0..n_buffers).map(|_| None).collect(), next: 0 }
    }

    /// Has some numbers copied to the device, as soon as a buffer is free. Adds to `waited` how long that took.
    pub(super) fn send(
        &mut self,
        pieces: &[Piece; N_PIECES],
        waited: &mut Duration,
    ) -> Result<[Tensor; N_PIECES], String> {
        /// Pieces begin where libtorch's own tensors might.
        const ALIGNED: usize = 64;
        let mut ends = [0; N_PIECES];
        let mut size = 0;
        for (end, piece) in ends.iter_mut().zip(pieces) {
            size += piece.numbers.size();
            *end = size;
            size = size.next_multiple_of(ALIGNED);
        }
        let start = |i: usize| ends[i] - pieces[i].numbers.size();
        let device = self.device;
        let buffer = self.buffer(size, waited)?;
        let bytes = match buffer {
            StagingBuffer::Pinned(pinned) => pinned.bytes_mut(),
            StagingBuffer::Plain(words) => bytemuck::cast_slice_mut(words),
        };
        for (i, piece) in pieces.iter().enumerate() {
            piece.numbers.write(&mut bytes[start(i)..ends[i]]);
        }
        let block = match buffer {
            StagingBuffer::Pinned(pinned) => {
                let block = Tensor::empty([size as i64], (Kind::Uint8, device));
                pinned.copy_to(&block)?;
                block
            }
            StagingBuffer::Plain(words) => Tensor::from_slice(&bytemuck::cast_slice::<u64, u8>(words)[..size]),
        };
        Ok(std::array::from_fn(|i| {
            let bytes = block.narrow(0, start(i) as i64, (ends[i] - start(i)) as i64);
            bytes.view_dtype(pieces[i].numbers.kind()).view(&pieces[i].shape[..])
        }))
    }

    /// The next buffer, of at least this size, when the GPU has read what was in it.
    fn buffer(&mut self, size: usize, waited: &mut Duration) -> Result<&mut StagingBuffer, String> {
        let n_buffers = self.buffers.len();
        let place = &mut self.buffers[self.next];
        self.next = (self.next + 1) % n_buffers;
        let reusable = match place {
            Some(StagingBuffer::Pinned(pinned)) => {
                let tic = Instant::now();
                pinned.wait()?;
                *waited += tic.elapsed();
                pinned.len() >= size
            }
            Some(StagingBuffer::Plain(words)) => 8 * words.len() >= size,
            None => false,
        };
        if !reusable {
            // Some more, for the next batch may be a little larger.
            let size = size + size / 8;
            *place = Some(match &self.cuda {
                Some(cuda) => StagingBuffer::Pinned(Pinned::new(cuda, size)?),
                None => StagingBuffer::Plain(vec![0; size.div_ceil(8)]),
            });
        }
        Ok(place.as_mut().expect("made above"))
    }
}

//! Measures how fast processes sum gradients: it repeats an all-reduce of as many values as the article's model has
//! parameters.
//!
//! ```text
//! cargo build --release -p vqa-benches --example all_reduce
//! PYTHONPATH=.libtorch python3 -m torch.distributed.run --no-python --standalone --nproc-per-node 2 \
//!     target/release/examples/all_reduce
//! ```
//!
//! Arguments: a device (`cpu`, or `cuda` for one GPU per process, with NCCL), and the number of values. A single
//! process on a GPU shows that NCCL works.

use std::time::Instant;

use tch::{Device, Kind, Tensor};
use vqa_model::device::parse_device;
use vqa_train::distributed::{Collective, Launch, Master, Processes};

/// Parameters of the article's model with 3,129 answers and 19,901 words.
const N: i64 = 26_000_000;
const N_WARM: usize = 2;
const N_COUNTED: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut device = parse_device(&arguments.next().unwrap_or_else(|| "cpu".to_owned()))?;
    let n = arguments.next().map_or(Ok(N), |n| n.parse())?;
    let master = Master { host: "127.0.0.1".to_owned(), port: 29_511, is_launcher: false };
    let launch = Launch::from_env()?.unwrap_or(Launch {
        rank: 0,
        world_size: 1,
        local_rank: 0,
        local_world_size: 1,
        cores: None,
        master,
        attempt: 0,
    });
    if device.is_cuda() {
        device = Device::Cuda(launch.local_rank);
    }
    let mut processes = Processes::join(&launch, None)?;
    processes.use_gpu(device)?;
    let (rank, world_size) = (processes.rank(), processes.world_size());
    for kind in [Kind::Float, Kind::BFloat16] {
        let mut seconds = Vec::new();
        for i in 0..N_WARM + N_COUNTED {
            let mut numbers = Tensor::full([n], (rank + 1) as f64, (kind, device));
            let value = |numbers: &Tensor| numbers.get(n / 2).double_value(&[]);
            let _ = value(&numbers);
            processes.barrier()?;
            let tic = Instant::now();
            processes.all_reduce(&mut numbers)?;
            let sum = value(&numbers);
            if i >= N_WARM {
                seconds.push(tic.elapsed().as_secs_f64());
            }
            assert_eq!(sum, (world_size * (world_size + 1) / 2) as f64);
        }
        seconds.sort_by(f64::total_cmp);
        let (median, bytes) = (seconds[N_COUNTED / 2], n as f64 * kind.elt_size_in_bytes() as f64);
        if rank == 0 {
            let (ms, gb) = (1e3 * median, bytes / median / 1e9);
            println!("{world_size} processes on {device:?}, {n} numbers in {kind:?}: {ms:.1} ms, {gb:.2} GB/s");
        }
    }
    Ok(())
}

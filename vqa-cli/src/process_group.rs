//! Lets the processes of a command that a launcher has started several times find each other, with only the first of
//! them printing and writing files.

use anyhow::{Result, bail};
use tch::{Cuda, Device};
use vqa_data::message::counted;
use vqa_model::device::parse_device;
use vqa_train::distributed::{Collective, Launch, SingleProcess, launcher_restarts};

use crate::terminal;

/// This process among those started together; most often it is the only one.
pub struct ProcessGroup {
    launch: Option<Launch>,
    is_restarted: bool,
    #[cfg(feature = "distributed")]
    processes: std::cell::OnceCell<std::rc::Rc<vqa_train::distributed::Processes>>,
}

impl ProcessGroup {
    /// A process on its own, regardless of the environment.
    pub fn alone() -> ProcessGroup {
        ProcessGroup {
            launch: None,
            is_restarted: false,
            #[cfg(feature = "distributed")]
            processes: std::cell::OnceCell::new(),
        }
    }

    /// Reads the launcher's variables. With several processes, only the first prints anything but errors from here on,
    /// and each computes with its share of the cores.
    pub fn find() -> Result<ProcessGroup> {
        let launch = Launch::from_env().map_err(anyhow::Error::msg)?;
        if let Some(launch) = &launch {
            if cfg!(not(feature = "distributed")) {
                bail!(
                    "the environment says that this is one of {} processes, but this vqa was built without the feature \
                     \"distributed\": build it with that feature, or run it without the launcher",
                    launch.world_size
                );
            }
            terminal::be_process(launch.rank);
            share_cores(launch);
        }
        Ok(ProcessGroup { launch, is_restarted: launcher_restarts(), ..ProcessGroup::alone() })
    }

    /// Whether this process is the one that writes files and prints results.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// How many processes there are.
    pub fn n_processes(&self) -> usize {
        self.launch.as_ref().map_or(1, |launch| launch.world_size)
    }

    /// Whether a launcher restarts the processes, or this one alone, when one has died.
    pub fn is_restarted(&self) -> bool {
        self.is_restarted
    }

    /// The device that a config names. If that is a GPU without a number, each process of a machine gets a GPU of its
    /// own.
    pub fn device(&self, name: &str) -> Result<Device> {
        let device = parse_device(name)?;
        let Some(launch) = self.launch.as_ref().filter(|_| device.is_cuda() && !name.contains(':')) else {
            return Ok(device);
        };
        let n_devices = Cuda::device_count();
        if launch.local_rank as i64 >= n_devices {
            bail!(
                "process {} is number {}, counted from 0, on a machine with {}: start one process per \
                 GPU, or set device = \"cpu\"",
                launch.rank,
                launch.local_rank,
                counted(n_devices as usize, "GPU")
            );
        }
        Ok(Device::Cuda(launch.local_rank))
    }

    /// Connects to the other processes. No collective waits for them longer than `timeout` seconds. Tensors on this
    /// device are summed there.
    #[cfg(feature = "distributed")]
    pub fn join(&self, timeout: Option<u64>, device: Device) -> Result<()> {
        let Some(launch) = self.launch.as_ref().filter(|_| self.processes.get().is_none()) else { return Ok(()) };
        let mut processes =
            vqa_train::distributed::Processes::join(launch, timeout.map(std::time::Duration::from_secs))?;
        processes.use_gpu(device)?;
        terminal::say!("{} processes, of which this is number {}", launch.world_size, launch.rank);
        let _ = self.processes.set(std::rc::Rc::new(processes));
        Ok(())
    }

    #[cfg(not(feature = "distributed"))]
    pub fn join(&self, _: Option<u64>, _: Device) -> Result<()> {
        Ok(())
    }

    /// The collective operations with the other processes, once joined; until then those of a process on its own.
    pub fn collective(&self) -> &dyn Collective {
        #[cfg(feature = "distributed")]
        if let Some(processes) = self.processes.get() {
            return &**processes;
        }
        &SingleProcess
    }

    /// A function that sums a tensor over all processes; `None` if this one is alone.
    pub fn sum(&self) -> Option<impl Fn(&mut tch::Tensor) -> Result<(), String> + 'static> {
        #[cfg(feature = "distributed")]
        let sum = self.processes.get().cloned().map(|processes| {
            move |tensor: &mut tch::Tensor| processes.all_reduce(tensor).map_err(|error| error.to_string())
        });
        #[cfg(not(feature = "distributed"))]
        let sum = None::<fn(&mut tch::Tensor) -> Result<(), String>>;
        sum
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.launch.as_ref().map_or(0, |launch| launch.rank)
    }

    /// Passes a result through. If it is an error that the other processes do not know of, tells them.
    pub fn ended<T>(&self, result: Result<T>) -> Result<T> {
        #[cfg(feature = "distributed")]
        if let (Err(error), Some(processes)) = (&result, self.processes.get()) {
            let is_known = error.downcast_ref::<vqa_train::Error>().is_some_and(vqa_train::Error::is_of_collective);
            let is_stop = error.is::<crate::interrupt::Stopped>();
            if !is_known && !is_stop {
                processes.fail(&format!("{error:#}"));
            }
        }
        result
    }
}

/// Gives this process its share of the cores, unless the user has set the number of threads. A value of 1 is ignored,
/// since torchrun sets that by default.
fn share_cores(launch: &Launch) {
    let n_cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let said = std::env::var("OMP_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|&n: &usize| n > 1);
    let n_threads = said.unwrap_or_else(|| launch.n_threads(n_cores));
    tch::set_num_threads(n_threads as i32);
    // Fails only if the pool already exists, and nothing has run in parallel yet.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global();
}

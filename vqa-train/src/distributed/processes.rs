//! Processes that a launcher has started, connected by libtorch's collectives.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use c10d_sys::nccl::{Communicator, Nccl, UniqueId};
use c10d_sys::{Listen, ProcessGroup, Store};
use tch::{Device, Tensor};

use crate::distributed::collective::{Collective, Pending};
use crate::distributed::launch::Launch;
use crate::error::{Error, Result};

/// The [`Collective`] of a [`Launch`]: Gloo for tensors on a CPU, and NCCL for those on a GPU if it is installed;
/// without it they are copied to the CPU for Gloo.
pub struct Processes {
    launch: Launch,
    store: Arc<Store>,
    /// `None` after a failure: closing it makes the calls of other processes that wait for this one fail.
    group: RefCell<Option<ProcessGroup>>,
    nccl: Option<Communicator>,
}

/// How long processes wait for each other by default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a process that has failed waits to learn which others have failed too.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns the key under which a process that fails stores the reason: `C` if a collective failed, otherwise `E` and
/// its error.
fn failure_of(rank: usize) -> String {
    format!("failure/{rank}")
}

impl Processes {
    /// Connects to the other processes. No collective takes longer than `timeout`, which defaults to 60 s.
    ///
    /// # Errors
    ///
    /// When they do not connect in time.
    pub fn join(launch: &Launch, timeout: Option<Duration>) -> Result<Processes> {
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT);
        let Launch { rank, world_size, master, attempt, .. } = launch;
        let at = format!("{}:{}", master.host, master.port);
        let problem =
            |words: String| Error::Collective { problem: format!("cannot meet the other processes: {words}") };
        let serve = *rank == 0 && !master.is_launcher;
        // An attempt must not find what an earlier one has left in the store.
        let prefix = format!("vqa/{attempt}");
        let store = Store::connect(&master.host, master.port, serve, &prefix, timeout)
            .map_err(|words| problem(format!("{at}: {words}")))?;
        let listen = listen(launch).map_err(|words| problem(format!("{at}: {words}")))?;
        let group = ProcessGroup::join(&store, *rank, *world_size, &listen, timeout)
            .map_err(|words| problem(format!("this is process {rank} of {world_size}, at {listen:?}: {words}")))?;
        Ok(Processes { launch: launch.clone(), store: Arc::new(store), group: RefCell::new(Some(group)), nccl: None })
    }

    /// Uses NCCL for tensors on this process's GPU, if it is installed. All processes must call this, or none.
    ///
    /// # Errors
    ///
    /// When NCCL cannot connect the processes.
    pub fn use_gpu(&mut self, device: Device) -> Result<()> {
        let Device::Cuda(_) = device else { return Ok(()) };
        let nccl = match Nccl::open() {
            Ok(nccl) => nccl,
            Err(problem) => {
                tracing::warn!("gradients are summed on the CPU, since NCCL is not available: {problem}");
                return Ok(());
            }
        };
        // Makes this GPU the thread's current one.
        let _ = Tensor::zeros([1], (tch::Kind::Float, device));
        let failed = |problem: String| Error::Collective { problem };
        let mut id = UniqueId([0; 128]);
        if self.rank() == 0 {
            id = nccl.unique_id().map_err(failed)?;
        }
        let mut bytes = Tensor::from_slice(&id.0);
        self.broadcast(&mut bytes, 0)?;
        id.0.copy_from_slice(&Vec::<u8>::try_from(bytes).expect("a flat tensor of bytes"));
        self.nccl = Some(nccl.join(id, self.rank(), self.world_size()).map_err(failed)?);
        Ok(())
    }

    /// Leaves the other processes and tells them why, so that they fail with that reason. Call it before the process
    /// exits with an error of its own.
    pub fn fail(&self, reason: &str) {
        let (store, rank, others) = (self.store.clone(), self.rank(), self.world_size() - 1);
        let keeps_store = self.keeps_store();
        let value = format!("E{reason}");
        let told = TimeLimited::start(2 * PATIENCE, move || {
            let _ = store.set(&failure_of(rank), value.as_bytes());
            // The store ends with this process, and the others have not read it yet.
            if keeps_store {
                wait_until_told(&store, others);
            }
        });
        self.group.take();
        told.wait();
    }

    /// Whether the store ends with this process.
    fn keeps_store(&self) -> bool {
        self.rank() == 0 && !self.launch.master.is_launcher
    }

    /// Returns the error for a failed collective: finds out which processes are gone, or which one failed and why.
    fn failed(&self, words: &str) -> Error {
        // Processes that wait for this one now fail at once, rather than after their timeout.
        self.group.take();
        let (store, rank, n) = (self.store.clone(), self.rank(), self.world_size());
        let keeps_store = self.keeps_store();
        let look = move || -> std::result::Result<Vec<Option<String>>, String> {
            store.set(&failure_of(rank), b"C")?;
            let tic = Instant::now();
            loop {
                let mut found = Vec::with_capacity(n);
                for other in 0..n {
                    let word = store.get(&failure_of(other))?;
                    found.push(word.map(|word| String::from_utf8_lossy(&word).into_owned()));
                }
                let knows =
                    found.iter().all(Option::is_some) || found.iter().flatten().any(|word| word.starts_with('E'));
                if knows || tic.elapsed() > PATIENCE {
                    match keeps_store {
                        // The other live processes look for as long as this one, and may have started later.
                        true => wait_until_told(&store, found.iter().flatten().count() - 1),
                        false => drop(store.add("told", 1)),
                    }
                    return Ok(found);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let found = TimeLimited::start(3 * PATIENCE, look).wait();
        let words = words.trim_end_matches('.');
        match found {
            Some(Ok(found)) => {
                let own = |word: &Option<String>| word.as_ref()?.strip_prefix('E').map(str::to_owned);
                if let Some((rank, problem)) = found.iter().enumerate().find_map(|(i, word)| Some((i, own(word)?))) {
                    return Error::OtherProcess { rank, problem };
                }
                let gone: Vec<String> =
                    (0..n).filter(|&other| found[other].is_none()).map(|other| other.to_string()).collect();
                let problem = match &gone[..] {
                    [] => format!("the network between the processes failed: {words}"),
                    [one] => format!("process {one} of {n} has ended or cannot be reached: {words}"),
                    several => {
                        format!("processes {} of {n} have ended or cannot be reached: {words}", several.join(", "))
                    }
                };
                Error::Collective { problem }
            }
            _ => {
                let keeper = if self.launch.master.is_launcher { "the launcher" } else { "process 0" };
                let at = &self.launch.master.host;
                Error::Collective { problem: format!("{keeper}, at {at}, has ended or cannot be reached: {words}") }
            }
        }
    }

    fn with_group(&self, act: impl FnOnce(&ProcessGroup) -> std::result::Result<(), String>) -> Result<()> {
        let done = match &*self.group.borrow() {
            Some(group) => act(group),
            None => Err("this process has left the others".to_owned()),
        };
        done.map_err(|words| self.failed(&words))
    }

    /// Applies a collective to a tensor: in place if it is on the CPU, or on a GPU with NCCL; otherwise by way of a
    /// copy on the CPU.
    fn with_tensor(
        &self,
        tensor: &mut Tensor,
        by_gloo: impl FnOnce(&ProcessGroup, &mut Tensor) -> std::result::Result<(), String>,
        by_nccl: impl FnOnce(&Communicator, &mut Tensor) -> std::result::Result<(), String>,
    ) -> Result<()> {
        match (tensor.device(), &self.nccl) {
            (Device::Cuda(_), Some(nccl)) => by_nccl(nccl, tensor).map_err(|words| self.failed(&words)),
            (Device::Cpu, _) => self.with_group(|group| by_gloo(group, tensor)),
            _ => {
                let mut copy = tensor.to_device(Device::Cpu);
                self.with_group(|group| by_gloo(group, &mut copy))?;
                tch::no_grad(|| tensor.copy_(&copy));
                Ok(())
            }
        }
    }
}

impl Collective for Processes {
    fn rank(&self) -> usize {
        self.launch.rank
    }

    fn world_size(&self) -> usize {
        self.launch.world_size
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<()> {
        self.with_tensor(tensor, |group, tensor| group.all_reduce(tensor), |nccl, tensor| nccl.all_reduce(tensor))
    }

    fn start_all_reduce(&self, mut tensor: Tensor) -> Result<Pending<'_>> {
        if tensor.device() != Device::Cpu {
            // NCCL's operation is queued on the GPU and runs asynchronously there.
            self.all_reduce(&mut tensor)?;
            return Ok(Pending::done());
        }
        let mut started = None;
        self.with_group(|group| {
            started = Some(group.start_all_reduce(tensor)?);
            Ok(())
        })?;
        let work = started.expect("started, or an error");
        Ok(Pending(Box::new(move || work.wait().map_err(|words| self.failed(&words)))))
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        self.with_tensor(
            tensor,
            |group, tensor| group.broadcast(tensor, root),
            |nccl, tensor| nccl.broadcast(tensor, root),
        )
    }
}

/// Waits briefly until `n` processes have read the reasons for the failure.
fn wait_until_told(store: &Store, n: usize) {
    let tic = Instant::now();
    while tic.elapsed() < PATIENCE && store.add("told", 0).is_ok_and(|told| told < n as i64) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Work on a thread of its own, whose result is waited for only so long: a store that cannot be reached may never
/// answer.
struct TimeLimited<T> {
    patience: Duration,
    result: Receiver<T>,
}

impl<T: Send + 'static> TimeLimited<T> {
    fn start(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> TimeLimited<T> {
        let (sender, result) = channel();
        std::thread::spawn(move || sender.send(work()));
        TimeLimited { patience, result }
    }

    fn wait(self) -> Option<T> {
        self.result.recv_timeout(self.patience).ok()
    }
}

/// An address that is reserved for documentation (RFC 5737), and so belongs to no machine.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// Returns where this process can be reached: at the interface that Gloo's environment variable names, or else at the
/// address from which this machine reaches the master. The address that its host name resolves to may be one that no
/// other machine can reach.
fn listen(launch: &Launch) -> std::result::Result<Listen, String> {
    if let Some(interfaces) = std::env::var("GLOO_SOCKET_IFNAME").ok().filter(|names| !names.is_empty()) {
        let first = interfaces.split(',').next().unwrap_or_default();
        return Ok(Listen::Interface(first.to_owned()));
    }
    let master = (launch.master.host.as_str(), launch.master.port);
    let addresses = master.to_socket_addrs().map_err(|error| error.to_string())?;
    let towards = |address: SocketAddr| -> std::io::Result<IpAddr> {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // Connecting a UDP socket sends nothing.
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        Ok(socket.local_addr()?.ip())
    };
    let is_one_machine = launch.local_world_size >= launch.world_size;
    let mut problem = "it has no address".to_owned();
    for address in addresses {
        match towards(address) {
            // On the master's machine its name may resolve to the loopback address, which other machines cannot
            // reach: use the address from which this machine reaches others.
            Ok(own) if own.is_loopback() && !is_one_machine => {
                return towards(ELSEWHERE).map(Listen::Address).map_err(|error| error.to_string());
            }
            Ok(address) => return Ok(Listen::Address(address)),
            Err(error) => problem = error.to_string(),
        }
    }
    Err(problem)
}

//! How a launcher started this process as one of several.

/// This process's place among several, as its launcher describes it in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The number of this process, from 0.
    pub rank: usize,
    /// How many processes there are.
    pub world_size: usize,
    /// The number of this process among those on this machine.
    pub local_rank: usize,
    /// How many processes are on this machine.
    pub local_world_size: usize,
    /// Cores for each process, if the launcher says so.
    pub cores: Option<usize>,
    /// Where the processes meet.
    pub master: Master,
    /// How often the launcher has restarted the processes.
    pub attempt: u64,
}

/// The address at which processes meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// A host name or an IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the launcher listens there, rather than process 0.
    pub is_launcher: bool,
}

impl Launch {
    /// Reads the environment variables of torchrun, or else of Slurm's srun. Returns `None` if this process is alone.
    ///
    /// # Errors
    ///
    /// When a variable is missing or makes no sense; the message names it.
    pub fn from_env() -> Result<Option<Launch>, String> {
        Launch::from_variables(&variable)
    }

    /// [`Launch::from_env`] with the variables that `get` returns.
    ///
    /// # Errors
    ///
    /// Those of [`Launch::from_env`].
    pub fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Launch>, String> {
        let variables = Variables(get);
        let launch = match (variables.number("WORLD_SIZE")?, variables.number("SLURM_STEP_NUM_TASKS")?) {
            (Some(world_size), _) => Launch::of_torchrun(&variables, world_size)?,
            (None, Some(world_size)) => Launch::of_slurm(&variables, world_size)?,
            (None, None) => return Ok(None),
        };
        if launch.world_size <= 1 && launch.rank == 0 {
            return Ok(None);
        }
        if launch.rank >= launch.world_size {
            return Err(format!("there are {} processes, and this one is number {}", launch.world_size, launch.rank));
        }
        Ok(Some(launch))
    }

    fn of_torchrun(variables: &Variables, world_size: usize) -> Result<Launch, String> {
        let rank = match world_size {
            0 | 1 => variables.number("RANK")?.unwrap_or(0),
            _ => variables.needed("RANK")?,
        };
        let is_launcher = variables.text("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        let master = Master {
            host: variables.text("MASTER_ADDR").unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: variables.port()?.unwrap_or(DEFAULT_PORT),
            is_launcher,
        };
        Ok(Launch {
            rank,
            world_size,
            local_rank: variables.number("LOCAL_RANK")?.unwrap_or(rank),
            local_world_size: variables.number("LOCAL_WORLD_SIZE")?.unwrap_or(world_size).max(1),
            cores: None,
            master,
            attempt: variables.number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0) as u64,
        })
    }

    fn of_slurm(variables: &Variables, world_size: usize) -> Result<Launch, String> {
        /// Ports from here on are free on most machines. Jobs on the same machine should get different ones.
        const FIRST_PORT: u64 = 20_000;
        const N_PORTS: u64 = 10_000;
        let job = variables.number("SLURM_JOB_ID")?.unwrap_or(0) as u64;
        let step = variables.number("SLURM_STEP_ID")?.unwrap_or(0) as u64;
        let host = match variables.text("MASTER_ADDR") {
            Some(host) => host,
            None => {
                let nodes = variables.text("SLURM_STEP_NODELIST").or_else(|| variables.text("SLURM_JOB_NODELIST"));
                first_node(&nodes.ok_or("neither SLURM_STEP_NODELIST nor MASTER_ADDR is set")?)
            }
        };
        let tasks = variables.text("SLURM_STEP_TASKS_PER_NODE");
        Ok(Launch {
            rank: variables.needed("SLURM_PROCID")?,
            world_size,
            local_rank: variables.number("SLURM_LOCALID")?.unwrap_or(0),
            // The format is "2(x3),1". The largest count is enough, since only an upper bound is needed.
            local_world_size: tasks.as_deref().and_then(most_tasks).unwrap_or(1),
            cores: variables.number("SLURM_CPUS_PER_TASK")?,
            master: Master {
                host,
                port: variables.port()?.unwrap_or((FIRST_PORT + (job * 7 + step) % N_PORTS) as u16),
                is_launcher: false,
            },
            attempt: variables.number("SLURM_RESTART_COUNT")?.unwrap_or(0) as u64,
        })
    }

    /// Returns how many threads this process should compute with, on a machine with this many cores.
    pub fn n_threads(&self, n_cores: usize) -> usize {
        self.cores.unwrap_or(n_cores / self.local_world_size).clamp(1, n_cores.max(1))
    }
}

/// Whether the launcher restarts its processes when one has died, or has done so: torchrun, or Slurm in a job that it
/// has requeued. A process that is alone may have such a launcher, too.
pub fn launcher_restarts() -> bool {
    is_restarting(&variable)
}

/// [`launcher_restarts`] with the variables that `get` returns.
fn is_restarting(get: &dyn Fn(&str) -> Option<String>) -> bool {
    ["TORCHELASTIC_RUN_ID", "SLURM_RESTART_COUNT"].into_iter().any(|name| get(name).is_some())
}

/// Returns an environment variable, unless it is empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// PyTorch's default port.
const DEFAULT_PORT: u16 = 29_500;

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name)
    }

    fn number(&self, name: &str) -> Result<Option<usize>, String> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| format!("{name}={text} in the environment is not a number"))
    }

    fn needed(&self, name: &str) -> Result<usize, String> {
        self.number(name)?.ok_or_else(|| format!("the environment sets the number of processes, but not {name}"))
    }

    fn port(&self) -> Result<Option<u16>, String> {
        let port = |number: usize| u16::try_from(number).map_err(|_| format!("MASTER_PORT={number} is not a port"));
        self.number("MASTER_PORT")?.map(port).transpose()
    }
}

/// Returns the first node of a Slurm node list: `node07` for `node[07-09,12],other`.
fn first_node(nodes: &str) -> String {
    let end = nodes.find([',', '[']).unwrap_or(nodes.len());
    let (prefix, rest) = nodes.split_at(end);
    match rest.strip_prefix('[') {
        Some(numbers) => {
            let end = numbers.find([',', '-', ']']).unwrap_or(numbers.len());
            format!("{prefix}{}", &numbers[..end])
        }
        None => prefix.to_owned(),
    }
}

/// Returns the largest number of tasks on a node, from a Slurm task list such as `2(x3),1`.
fn most_tasks(tasks: &str) -> Option<usize> {
    let counts = tasks.split(',').filter_map(|count| count.split('(').next()?.trim().parse().ok());
    counts.max().filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Result<Option<Launch>, String> {
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Launch::from_variables(&get)
    }

    #[test]
    fn a_process_without_a_launcher_is_alone() {
        assert_eq!(launch(&[]), Ok(None));
        assert_eq!(launch(&[("WORLD_SIZE", "1"), ("RANK", "0")]), Ok(None));
        // Inside a job, but not started by srun.
        assert_eq!(launch(&[("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")]), Ok(None));
    }

    #[test]
    fn torchrun_says_all() {
        let variables = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("MASTER_ADDR", "10.0.0.3"),
            ("MASTER_PORT", "41234"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("TORCHELASTIC_RUN_ID", "none"),
        ];
        let found = launch(&variables).unwrap().unwrap();
        let master = Master { host: "10.0.0.3".to_owned(), port: 41_234, is_launcher: true };
        assert_eq!((found.rank, found.world_size, found.local_rank, found.local_world_size), (5, 8, 1, 4));
        assert_eq!((&found.master, found.attempt), (&master, 2));
        assert_eq!([found.n_threads(16), found.n_threads(2), found.n_threads(9)], [4, 1, 2]);
    }

    #[test]
    fn slurm_says_all() {
        let variables = [
            ("SLURM_STEP_NUM_TASKS", "6"),
            ("SLURM_PROCID", "3"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_NODELIST", "gpu[07-09],big1"),
            ("SLURM_STEP_TASKS_PER_NODE", "2(x2),1(x2)"),
            ("SLURM_CPUS_PER_TASK", "3"),
            ("SLURM_JOB_ID", "4711"),
        ];
        let found = launch(&variables).unwrap().unwrap();
        assert_eq!((found.rank, found.world_size, found.local_rank, found.local_world_size), (3, 6, 1, 2));
        assert_eq!((found.master.host.as_str(), found.master.is_launcher), ("gpu07", false));
        assert_eq!(found.n_threads(16), 3);
        assert_eq!(["a,b", "a[3,5]", "a"].map(first_node), ["a", "a3", "a"]);
    }

    #[test]
    fn a_launcher_may_restart_a_single_process() {
        let restarts = |set: &[&str]| is_restarting(&|name| set.contains(&name).then(|| "1".to_owned()));
        assert!(restarts(&["WORLD_SIZE", "RANK", "TORCHELASTIC_RUN_ID"]));
        assert!(restarts(&["SLURM_JOB_ID", "SLURM_RESTART_COUNT"]));
        assert!(!restarts(&["WORLD_SIZE", "RANK", "SLURM_JOB_ID"]));
    }

    #[test]
    fn nonsense_is_named() {
        let message = |variables: &[(&str, &str)]| launch(variables).unwrap_err();
        assert!(message(&[("WORLD_SIZE", "two")]).contains("WORLD_SIZE=two"));
        assert!(message(&[("WORLD_SIZE", "2")]).contains("RANK"));
        assert!(message(&[("WORLD_SIZE", "2"), ("RANK", "2")]).contains("number 2"));
        assert!(message(&[("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_PORT", "99999")]).contains("MASTER_PORT"));
    }
}

//! Distributed training, scoring and prediction with several processes, over the loopback.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use vqa_data::random::split_mix_64;
use vqa_model::run::RunDir;
use vqa_train::Position;

use crate::common::{assert_same_runs, epochs, ok, prepared, stderr, trained, vqa, world};
use crate::process::{signal, wait_for};

/// A port that was free a moment ago.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts processes as torchrun does. Each gets the arguments with its number, or else the last ones.
fn start(at: &Path, n: usize, arguments: &[&str], variables: &[(&str, String)]) -> Vec<Child> {
    let port = port();
    let start = |rank: usize| {
        let mut command = vqa(at, arguments[rank.min(arguments.len() - 1)]);
        let numbers = [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", n), ("LOCAL_WORLD_SIZE", n)];
        command.envs(numbers.map(|(name, number)| (name, number.to_string())));
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.envs(variables.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    (0..n).map(start).collect()
}

fn outputs(children: Vec<Child>) -> Vec<Output> {
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

/// Runs a command in several processes, all of which must succeed, with output only from the first; returns that
/// output.
fn ok_together(at: &Path, n: usize, arguments: &str) -> String {
    let outputs = outputs(start(at, n, &[arguments], &[]));
    for (rank, output) in outputs.iter().enumerate() {
        assert!(output.status.success(), "process {rank} of {n}, vqa {arguments}: {}", stderr(output));
        let is_silent = output.stdout.is_empty() && output.stderr.is_empty();
        assert_eq!(is_silent, rank > 0, "process {rank}: {}", stderr(output));
    }
    String::from_utf8(outputs[0].stdout.clone()).unwrap()
}

/// The losses of the steps of a run, which logs every step.
fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "step").map(|line| line["loss"].as_f64().unwrap()).collect()
}

/// The largest relative difference of the losses.
fn off(losses: &[f64], others: &[f64]) -> f64 {
    assert_eq!(losses.len(), others.len());
    losses.iter().zip(others).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max)
}

/// Compares the losses of 50 steps and more, however the questions are distributed.
#[test]
fn processes_train_what_one_does() {
    let world = prepared();
    let at = world.path();
    let steps = "train --config config.toml --set train.log_every=1 --set train.n_epochs=5";
    let ways = [
        ("random", "", 1e-5),
        ("grouped", "--set train.sampler=grouped --set train.ema_decay=0.9", 1e-5),
        ("accumulated", "--set train.accumulate=3 --set train.batch_size=30 --set model.loss=softmax", 1e-5),
        (
            "lstm",
            "--set model.lm.rnn_type=LSTM --set model.lm.n_layers=2 --set model.lm.dropout=0.3 \
             --set model.topdown_att.type=concat",
            1e-5,
        ),
        ("both", "--set model.lm.n_layers=2 --set model.lm.dropout=0.3 --set model.lm.bidirectional=true", 1e-5),
        ("bf16", "--set train.precision=bf16", 0.02),
    ];
    for (name, way, allowed) in ways {
        ok(at, &format!("{steps} {way} --set out_dir={name}-1"));
        let expected = losses(&at.join(format!("{name}-1")));
        assert!(expected.len() >= 50, "{}", expected.len());
        // Four processes share even the small last batch of an epoch.
        for n in if name == "random" { 2..=4 } else { 3..=3 } {
            ok_together(at, n, &format!("{steps} {way} --set out_dir={name}-{n}"));
            let off = off(&losses(&at.join(format!("{name}-{n}"))), &expected);
            assert!(off <= allowed, "{name}, {n} processes: {off}");
        }
    }
    // Gradients rounded to bfloat16, half of the bytes.
    ok_together(at, 2, &format!("{steps} --set train.all_reduce=bf16 --set out_dir=rounded"));
    let (rounded, exact) = (losses(&at.join("rounded")), losses(&at.join("random-1")));
    let off = off(&rounded, &exact);
    assert!(off > 1e-7 && off < 0.02, "{off}");
}

/// The results agree to the last digit, and are written to one file in the order of a single process.
#[test]
fn processes_score_and_predict_what_one_does() {
    let world = trained();
    let at = world.path();
    let asked = "--checkpoint run --data val --batch-size 7";
    let evaluate = format!("evaluate {asked} --blind --occlude 1 --json --results");
    let alone = ok(at, &format!("{evaluate} one.json"));
    ok(at, &format!("predict {asked} --top 3 --out one.jsonl"));
    for n in [2, 3] {
        assert_eq!(ok_together(at, n, &format!("{evaluate} {n}.json")), alone);
        ok_together(at, n, &format!("predict {asked} --out again.json"));
        ok_together(at, n, &format!("predict {asked} --top 3 --out {n}.jsonl"));
        let same = |a: &str, b: &str| assert!(fs::read(at.join(a)).unwrap() == fs::read(at.join(b)).unwrap(), "{a}");
        same(&format!("{n}.json"), "one.json");
        same("again.json", "one.json");
        same(&format!("{n}.jsonl"), "one.jsonl");
    }
    // Validation during training scores the same weights the same, too.
    let train = "train --config config.toml --set train.optim.lr=1e-30 --set train.n_epochs=1 --set train.batch_size=7";
    ok(at, &format!("{train} --set out_dir=alone"));
    ok_together(at, 3, &format!("{train} --set out_dir=together"));
    let figures = |run: &str| {
        let line = epochs(&at.join(run)).remove(0);
        ["val_loss", "val_score", "val_upper_bound"].map(|key| line[key].as_f64().unwrap())
    };
    assert_eq!(figures("together"), figures("alone"));
}

/// The error message of each process, one line each.
fn errors(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .enumerate()
        .map(|(rank, output)| {
            let said = stderr(output);
            assert_eq!(output.status.code(), Some(1), "process {rank}: {said}");
            let line = said.lines().last().unwrap_or_default().to_owned();
            let beginning = if rank == 0 { "error: ".to_owned() } else { format!("process {rank}: error: ") };
            assert!(line.starts_with(&beginning), "{said}");
            line
        })
        .collect()
}

#[test]
fn what_must_be_the_same_is_compared_first() {
    let world = prepared();
    let at = world.path();
    let train = "train --config config.toml";
    let other = format!("{train} --set train.optim.lr=0.5");
    let said = errors(&outputs(start(at, 3, &[train, train, &other], &[])));
    assert!(
        said.iter()
            .all(|line| line.contains("process 2 differs from process 0") && line.contains("lr = 0.5, not lr = 0.002")),
        "{said:?}"
    );
    let config = fs::read_to_string(at.join("config.toml")).unwrap();
    fs::write(at.join("other.toml"), config.replace("train.h5", "val.h5").replace("_train", "_val")).unwrap();
    let other = "train --config other.toml";
    let said = errors(&outputs(start(at, 2, &[train, other], &[])));
    assert!(said.iter().all(|line| line.contains("process 1")), "{said:?}");
    assert!(!at.join("run/metrics.jsonl").exists(), "nothing was trained");
}

/// Whichever process fails on its own, all stop and say why.
#[test]
fn an_error_of_one_process_stops_all() {
    let world = prepared();
    let at = world.path();
    // The first process cannot write its curves.
    fs::create_dir_all(at.join("run/curves.svg/x")).unwrap();
    let said = errors(&outputs(start(at, 2, &["train --config config.toml"], &[])));
    assert!(said[0].contains("curves.svg"), "{said:?}");
    assert!(said[1].contains("process 0 failed") && said[1].contains("curves.svg"), "{said:?}");

    // A loss that is infinite for both is reported by each on its own.
    let diverging =
        "train --config config.toml --set train.optim.lr=1e30 --set train.clip_grad=false --set out_dir=far";
    let said = errors(&outputs(start(at, 2, &[diverging], &[])));
    assert!(said.iter().any(|line| line.contains("the loss is") || line.contains("NaN")), "{said:?}");
}

const LONG: &str = "train --config config.toml --set train.n_epochs=100000 --set train.checkpoint_every=7";

/// Waits until a run has saved its state.
fn wait_for_state(run: &Path) {
    wait_for("a state", || RunDir::new(run).state().exists());
}

/// Nothing hangs when a process dies or can no longer be reached.
#[test]
fn a_process_that_is_gone_is_named() {
    let world = prepared();
    let at = world.path();
    for (name, gone) in [("KILL", 2), ("KILL", 0), ("STOP", 1)] {
        let out_dir = format!("{name}-{gone}");
        let limits = format!("{LONG} --set train.collective_timeout=2 --set out_dir={out_dir}");
        let mut children = start(at, 3, &[&limits], &[]);
        wait_for_state(&at.join(&out_dir));
        signal(&children[gone], &[name]);
        let tic = Instant::now();
        let mut lost = children.remove(gone);
        let survivors = outputs(children);
        assert!(tic.elapsed() < Duration::from_secs(60), "{name} {gone}");
        lost.kill().unwrap();
        lost.wait().unwrap();
        for output in survivors {
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(&format!("process {gone}")), "{name} {gone}: {said}");
        }
    }
}

/// Two machines, simulated by network namespaces, and the cable between them, if this user may create them.
struct Machines([String; 2]);

impl Machines {
    fn new() -> Option<Machines> {
        let names = ["a", "b"].map(|side| format!("vqa{side}{}", std::process::id()));
        let [a, b] = &names;
        let ok = names.iter().all(|name| run_command(&format!("ip netns add {name}")));
        let machines = Machines(names.clone());
        let cable = format!("ip -n {a} link add eth0 type veth peer name eth0 netns {b}");
        let set_up = |(name, address): (&String, &str)| {
            run_command(&format!("ip -n {name} addr add {address}/24 dev eth0"))
                && ["lo", "eth0"].iter().all(|link| run_command(&format!("ip -n {name} link set {link} up")))
        };
        (ok && run_command(&cable) && names.iter().zip(["10.93.0.1", "10.93.0.2"]).all(set_up)).then_some(machines)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.0 {
            run_command(&format!("ip netns del {name}"));
        }
    }
}

fn run_command(command: &str) -> bool {
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    std::process::Command::new(program).args(words).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_cut_cable_ends_in_errors() {
    let Some(machines) = Machines::new() else {
        eprintln!("skipped: no network namespaces");
        return;
    };
    let world = prepared();
    let at = world.path();
    let train = format!("{LONG} --set train.collective_timeout=2");
    let start = |rank: usize| {
        let mut command = std::process::Command::new("ip");
        command.current_dir(at).args(["netns", "exec", &machines.0[rank], env!("CARGO_BIN_EXE_vqa")]);
        command.args(train.split(' ')).env("OMP_WAIT_POLICY", "passive");
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2").env("LOCAL_RANK", "0");
        command.env("LOCAL_WORLD_SIZE", "1").env("MASTER_ADDR", "10.93.0.1").env("MASTER_PORT", "29511");
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children = [0, 1].map(start);
    wait_for_state(&at.join("run"));
    assert!(run_command(&format!("ip -n {} link set eth0 down", machines.0[0])));
    let tic = Instant::now();
    let said = errors(&outputs(children.into()));
    assert!(tic.elapsed() < Duration::from_secs(60));
    assert!(said[0].contains("process 1 of 2") && said[1].contains("process 0"), "{said:?}");
}

/// Processes that are killed at any moment and restarted by the launcher give the same bytes as an uninterrupted run.
#[test]
fn killed_processes_go_on_to_the_same_bytes() {
    const N_KILLS: u64 = 10;
    let world = prepared();
    let at = world.path();
    let run = at.join("killed");
    let train = format!("{LONG} --set out_dir=killed --set train.collective_timeout=2 --resume");
    let mut position = Position::default();
    for attempt in 0..N_KILLS {
        let variables =
            [("TORCHELASTIC_RUN_ID", "test".to_owned()), ("TORCHELASTIC_RESTART_COUNT", attempt.to_string())];
        let children = start(at, 2, &[&train], &variables);
        if attempt > 0 {
            wait_for_state(&run);
        }
        let random = split_mix_64(attempt);
        std::thread::sleep(Duration::from_millis(100 + random % 900));
        signal(&children[(random >> 32) as usize % 2], &["KILL"]);
        for output in outputs(children) {
            let ended = output.status.signal() == Some(9) || output.status.code() == Some(1);
            assert!(ended, "{:?}: {}", output.status, stderr(&output));
        }
        let saved = Position::saved_in(&RunDir::new(&run)).unwrap().unwrap_or_default();
        assert!(saved.step >= position.step);
        position = saved;
    }
    assert!(position.step > 0);
    let n_epochs = format!("--set train.n_epochs={} --resume", position.epoch + 2);
    ok_together(
        at,
        2,
        &format!("train --config config.toml --set out_dir=killed --set train.checkpoint_every=7 {n_epochs}"),
    );
    let whole = format!("train --config config.toml --set out_dir=whole --set train.checkpoint_every=7 {n_epochs}");
    ok_together(at, 2, &whole.replace("--resume", ""));
    assert_same_runs(&run, &at.join("whole"));
}

/// One process gets the signal, and all stop after the same step. Fewer processes resume the run, which is printed and
/// recorded.
#[test]
fn processes_stop_together_and_other_ones_go_on() {
    let world = prepared();
    let at = world.path();
    let children = start(at, 3, &[LONG], &[]);
    wait_for_state(&at.join("run"));
    signal(&children[1], &["TERM"]);
    let outputs = outputs(children);
    assert!(outputs.iter().all(|output| output.status.code() == Some(130)), "{}", stderr(&outputs[0]));
    assert!(stderr(&outputs[0]).contains("stopped after "), "{}", stderr(&outputs[0]));
    let Position { epoch, step, .. } = Position::saved_in(&RunDir::new(at.join("run"))).unwrap().unwrap();
    let resume = format!("{} --resume", LONG.replace("100000", &(epoch + 1).to_string()));
    let outputs = self::outputs(start(at, 2, &[&resume], &[]));
    let said = stderr(&outputs[0]);
    assert!(outputs[0].status.success() && said.contains("processes = 2, was 3"), "{said}");
    let config = fs::read_to_string(at.join("run/config.toml")).unwrap();
    assert!(config.starts_with(&format!("# until step {step}: processes = 3\n")), "{config}");
}

/// The children of a process, from each process's `stat`: the state and the parent come after the name, which is in
/// parentheses.
fn children_of(parent: u32) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|process| {
            let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let after_name = status.rsplit_once(") ").map_or("", |(_, rest)| rest);
            after_name.split(' ').nth(1) == Some(&parent.to_string())
        })
        .collect();
    found.sort_unstable();
    found
}

/// A launcher restarts a single process with the same command, too, so `--resume` starts the run.
#[test]
fn a_launcher_starts_a_single_process() {
    let world = world();
    let at = world.path();
    let train = "train --config config.toml --set train.n_epochs=1 --resume";
    let launched = || {
        let mut command = vqa(at, train);
        command.envs([("WORLD_SIZE", "1"), ("RANK", "0"), ("TORCHELASTIC_RUN_ID", "test")]);
        command.output().unwrap()
    };
    let [first, again] = [launched(), launched()];
    assert!(first.status.success() && again.status.success(), "{}{}", stderr(&first), stderr(&again));
    assert!(stderr(&first).contains("dictionaries: wrote "), "{}", stderr(&first));
    assert!(stderr(&again).contains("resuming after epoch 1"), "{}", stderr(&again));
}

/// The launcher that comes with libtorch, which restarts all processes when one has died.
#[test]
fn torchrun_starts_them_again() {
    let torchrun = |at: &Path| {
        let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut command = std::process::Command::new(python);
        let torch = concat!(env!("CARGO_MANIFEST_DIR"), "/../.libtorch");
        let path = std::env::var("PYTHONPATH").map_or_else(|_| torch.to_owned(), |more| format!("{torch}:{more}"));
        command.current_dir(at).env("PYTHONPATH", path).env("OMP_WAIT_POLICY", "passive");
        command
            .args("-m torch.distributed.run --no-python --standalone --nproc-per-node 2 --max-restarts 3".split(' '));
        command.arg(env!("CARGO_BIN_EXE_vqa"));
        command
    };
    let world = prepared();
    let at = world.path();
    let train = format!("{LONG} --resume");
    let mut child = torchrun(at).args(train.split(' ')).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let run = RunDir::new(at.join("run"));
    let deadline = Instant::now() + Duration::from_secs(120);
    while !run.state().exists() && child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    if child.try_wait().unwrap().is_some() {
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("No module named") && std::env::var_os("VQA_REQUIRE_PYTORCH").is_none(), "{said}");
        eprintln!("skipped: no Python with torch");
        return;
    }
    let step = || Position::saved_in(&run).ok().flatten().map_or(0, |position| position.step);
    let killed_at = step();
    let of_launcher = children_of(child.id());
    assert_eq!(of_launcher.len(), 2);
    assert!(run_command(&format!("kill -KILL {}", of_launcher[0])));
    wait_for("steps after the restart", || step() > killed_at + 20);
    signal(&child, &["TERM"]);
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert!(said.contains("resuming after "), "{said}");
}

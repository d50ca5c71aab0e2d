//! The state to resume from. It is a single file, so that weights, optimiser and position are always from the same
//! moment, whenever the program or the machine dies. Everything else follows from it: resuming drops later metrics, and
//! computes later checkpoints again, with the same values.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_data::batches::{Dataset, DatasetFingerprint};
use vqa_data::message::counted;
use vqa_model::run::RunDir;
use vqa_model::weights::{Header, read_header, read_tensors, write_tensors};

use crate::error::{Error, Result, SavedFiles};
use crate::metrics::sums::Sums;
use crate::optim::optimizer::Optimizer;
use crate::position::Position;

/// The epoch with the highest validation score; if several have it, the first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Counted from 1.
    pub epoch: u64,
    /// Mean soft score of the validation questions, in percent.
    pub val_score: f64,
}

/// The part of the state other than the weights and the optimiser's tensors.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// The number of training questions: with another number, the batches would differ.
    pub(crate) n_questions: usize,
    /// The digests of the data that the run is trained and validated on. States of older versions lack them.
    #[serde(default)]
    data: Option<DataFingerprint>,
    /// The number of libtorch's threads. Sums in float32 depend on it, so a resumed run uses the same number.
    #[serde(default)]
    n_threads: Option<u32>,
    /// The number of processes that train the run. The last digits of their sums depend on it.
    #[serde(default = "alone")]
    pub(crate) n_processes: usize,
    #[serde(rename = "progress")]
    pub(crate) position: Position,
    /// The sums of the epoch in progress.
    pub(crate) of_epoch: Sums,
    /// The sums of the steps since the last step line, in the epoch in progress.
    pub(crate) of_interval: Sums,
    pub(crate) best: Option<Best>,
    /// Validations since the best one.
    pub(crate) n_since_best: u64,
}

fn alone() -> usize {
    1
}

/// Digests of a run's data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct DataFingerprint {
    train: DatasetFingerprint,
    val: Option<DatasetFingerprint>,
}

impl DataFingerprint {
    fn of(train: &Dataset, val: Option<&Dataset>) -> Result<DataFingerprint> {
        Ok(DataFingerprint { train: train.fingerprint()?, val: val.map(Dataset::fingerprint).transpose()? })
    }

    /// Returns the parts of the data that have changed. A split that existed only before, or exists only now, does not
    /// count.
    fn changed(&self, before: &DataFingerprint) -> Vec<&'static str> {
        let (now, then) = (&self.train.dictionaries, &before.train.dictionaries);
        let dictionaries =
            [("the word dictionary", now.words != then.words), ("the answer dictionary", now.answers != then.answers)];
        // Questions are encoded with the dictionaries, so they cannot be compared if those have changed.
        let comparable = now == then;
        let train = [
            ("the training questions", comparable && self.train.questions != before.train.questions),
            ("the training features", self.train.features != before.train.features),
        ];
        let val = self.val.as_ref().zip(before.val.as_ref()).map(|(now, then)| {
            [
                ("the validation questions", comparable && now.questions != then.questions),
                ("the validation features", now.features != then.features),
            ]
        });
        let parts = dictionaries.into_iter().chain(train).chain(val.into_iter().flatten());
        parts.filter(|&(_, differs)| differs).map(|(part, _)| part).collect()
    }
}

impl State {
    /// Adds the sums of a step.
    pub(crate) fn add(&mut self, sums: Sums) {
        self.of_epoch.add(sums);
        self.of_interval.add(sums);
    }

    /// Whether there have been `patience` validations without a better score. Always false if `patience` is 0.
    pub(crate) fn is_out_of_patience(&self, patience: u64) -> bool {
        patience > 0 && self.n_since_best >= patience
    }

    /// Moves on to the next epoch, and records the score of the finished one.
    pub(crate) fn finish_epoch(&mut self, val_score: Option<f64>) {
        self.position.epoch += 1;
        self.position.batch = 0;
        (self.of_epoch, self.of_interval) = (Sums::default(), Sums::default());
        let Some(val_score) = val_score else { return };
        if self.best.is_none_or(|best| val_score > best.val_score) {
            self.best = Some(Best { epoch: self.position.epoch, val_score });
            self.n_since_best = 0;
        } else {
            self.n_since_best += 1;
        }
    }
}

/// The prefix of the weights' names in the state's file.
const WEIGHTS: &str = "model.";

/// Keys in the header of the state's file: the state as JSON, and the checksum of the state and the tensors.
const STATE: &str = "state";
const CHECKSUM: &str = "crc32c";

impl Position {
    /// Returns where the run in a directory stands; `None` if no state was saved.
    ///
    /// # Errors
    ///
    /// When there is a state but it is damaged.
    pub fn saved_in(run: &RunDir) -> Result<Option<Position>> {
        Ok(State::read(run)?.map(|state| state.position))
    }
}

impl State {
    fn read(run: &RunDir) -> Result<Option<State>> {
        let path = run.state();
        if !path.exists() {
            return Ok(None);
        }
        match read_header(&path)?.get(STATE).map(|state| serde_json::from_str(state)) {
            Some(Ok(state)) => Ok(Some(state)),
            _ => Err(Error::Run {
                path,
                problem: "not a state of this version of vqa: resume with that version, or choose another out_dir"
                    .to_owned(),
            }),
        }
    }

    /// Returns how many processes last trained the run in a directory; `None` if no state was saved.
    pub(crate) fn n_processes_of(run: &RunDir) -> Result<Option<usize>> {
        Ok(State::read(run)?.map(|state| state.n_processes))
    }

    /// Writes the state to its file, which is replaced atomically. Refuses NaN and infinity.
    pub(crate) fn save(&self, run: &RunDir, vs: &VarStore, optimizer: &Optimizer) -> Result<()> {
        let mut tensors: Vec<(String, Tensor)> =
            vs.variables().into_iter().map(|(name, tensor)| (format!("{WEIGHTS}{name}"), tensor)).collect();
        tensors.extend(optimizer.state());
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        check_finite(run, &tensors, self.position.step)?;
        let text = serde_json::to_string(self).expect("a state can be written as JSON");
        let checksum = checksum(&text, &tensors);
        let header = Header::from([(STATE.to_owned(), text), (CHECKSUM.to_owned(), checksum)]);
        Ok(write_tensors(&run.state(), &tensors, header)?)
    }

    /// Returns the number of threads to train with: the saved number if there are as many processes as before,
    /// otherwise the current one.
    fn n_threads_of(&self, n_processes: usize) -> Option<u32> {
        let now = u32::try_from(tch::get_num_threads()).ok();
        if self.n_processes == n_processes { self.n_threads } else { now }
    }

    /// Returns the digests of the data as JSON.
    pub(crate) fn data(&self) -> String {
        serde_json::to_string(&self.data).expect("digests can be written as JSON")
    }

    /// Makes libtorch use as many threads as the run did before, whatever the environment says now.
    fn use_threads(&self, device: Device) {
        /// No machine has more cores, but a damaged state might claim more threads.
        const MOST: u32 = 4096;
        let now = tch::get_num_threads();
        let before = self.n_threads.filter(|n| device == Device::Cpu && (1..=MOST).contains(n)).map(|n| n as i32);
        if let Some(n) = before.filter(|&n| n != now) {
            let threads = counted(n as usize, "thread");
            tracing::info!("computing with {threads} as before, not {now}: the number affects how sums are rounded");
            tch::set_num_threads(n);
        }
    }

    /// Refuses data other than the run's own.
    fn check_data(&self, run: &RunDir, n_questions: usize, data: &DataFingerprint) -> Result<()> {
        if self.n_questions != n_questions {
            let before = self.n_questions;
            let problem = format!("the run has {before} training questions, but now there are {n_questions}");
            return Err(of_another(&run.state(), &problem));
        }
        let changed = self.data.as_ref().map(|before| data.changed(before)).unwrap_or_default();
        if changed.is_empty() {
            return Ok(());
        }
        Err(of_another(&run.state(), &format!("{} changed since", changed.join(", "))))
    }

    /// Refuses to resume with data other than the run's own, before anything is written.
    pub(crate) fn check_saved(run: &RunDir, train: &Dataset, val: Option<&Dataset>) -> Result<()> {
        match State::read(run)? {
            Some(state) => state.check_data(run, train.len(), &DataFingerprint::of(train, val)?),
            None => Ok(()),
        }
    }

    /// Restores the saved state, or creates a new one if none was saved.
    ///
    /// # Errors
    ///
    /// When the state is damaged, or belongs to another model, optimiser or data.
    pub(crate) fn restore(
        run: &RunDir,
        train: &Dataset,
        val: Option<&Dataset>,
        vs: &VarStore,
        n_processes: usize,
        optimizer: &mut Optimizer,
    ) -> Result<State> {
        let data = DataFingerprint::of(train, val)?;
        let Some(state) = State::read(run)? else {
            let n_threads = u32::try_from(tch::get_num_threads()).ok();
            return Ok(State {
                n_questions: train.len(),
                data: Some(data),
                n_threads,
                n_processes,
                ..State::default()
            });
        };
        state.check_data(run, train.len(), &data)?;
        let state = State { data: Some(data), n_processes, n_threads: state.n_threads_of(n_processes), ..state };
        let path = run.state();
        let of_another = |problem: String| of_another(&path, &problem);
        let mut tensors = read_tensors(&path)?;
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let header = read_header(&path)?;
        // States of older versions have no checksum.
        if let (Some(text), Some(written)) = (header.get(STATE), header.get(CHECKSUM))
            && *written != checksum(text, &tensors)
        {
            let problem = "it is damaged: its contents do not match its checksum; set model.init to a checkpoint of \
                the run, and choose another out_dir";
            return Err(Error::Damaged { path, problem: problem.to_owned() });
        }
        let (weights, of_optimizer): (Vec<_>, Vec<_>) =
            tensors.into_iter().partition(|(name, _)| name.starts_with(WEIGHTS));
        let mut variables = vs.variables();
        for (name, stored) in weights {
            match variables.remove(&name[WEIGHTS.len()..]) {
                Some(mut variable) if variable.size() == stored.size() => tch::no_grad(|| variable.copy_(&stored)),
                _ => return Err(of_another(format!("{name} is not in this model, or has another shape"))),
            }
        }
        if let Some(name) = variables.keys().min() {
            return Err(of_another(format!("{WEIGHTS}{name} is missing")));
        }
        optimizer.restore(state.position.step, of_optimizer).map_err(of_another)?;
        state.use_threads(vs.device());
        Ok(state)
    }
}

fn of_another(path: &Path, problem: &str) -> Error {
    Error::Run {
        path: path.to_owned(),
        problem: format!("{problem}: resume with what the run was started with, or choose another out_dir"),
    }
}

/// Returns the checksum of a state and its tensors, which are float32 in the file.
fn checksum(state: &str, tensors: &[(String, Tensor)]) -> String {
    let mut sum = crc32c::crc32c(state.as_bytes());
    for (name, tensor) in tensors {
        sum = crc32c::crc32c_append(sum, name.as_bytes());
        for &length in &tensor.size() {
            sum = crc32c::crc32c_append(sum, &length.to_le_bytes());
        }
        let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
        let values = Vec::<f32>::try_from(&flat).expect("a flat float tensor on the CPU");
        sum = crc32c::crc32c_append(sum, bytemuck::must_cast_slice(&values));
    }
    format!("{sum:08x}")
}

/// Returns what can be resumed after an error that ended a run. It cannot fail itself, and so never hides that error.
pub(crate) fn saved_files(run: &RunDir) -> SavedFiles {
    match Position::saved_in(run) {
        Ok(None) => SavedFiles::Nothing,
        Ok(Some(Position { epoch, step, .. })) => {
            let checkpoint = Some(run.checkpoint(epoch)).filter(|path| path.exists());
            SavedFiles::State { path: run.state(), step, checkpoint }
        }
        Err(error) => SavedFiles::Unreadable(error.to_string()),
    }
}

/// Fails if a tensor has NaN or infinite values.
pub(crate) fn check_finite(run: &RunDir, tensors: &[(String, Tensor)], step: u64) -> Result<()> {
    // The sum of the values is finite only if all of them are, and is much faster to compute than `isfinite`. If finite
    // values are so large that their sum overflows, they are as bad as infinite ones.
    let is_finite = |tensor: &Tensor| tensor.sum(tensor.kind()).double_value(&[]).is_finite();
    match tensors.iter().find(|(_, tensor)| !is_finite(tensor)) {
        Some((name, _)) => Err(Error::NotFinite { tensor: name.clone(), step, saved: saved_files(run) }),
        None => Ok(()),
    }
}

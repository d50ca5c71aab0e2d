//! What resuming needs: one file, so that weights, optimiser and position cannot come from different moments, whenever
//! the program or the machine dies. All else follows from it: resuming drops the metrics after it, and trains to the
//! checkpoints after it again, to the same values.

use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_model::run::RunDir;
use vqa_model::weights::{Header, read_header, read_tensors, write_tensors};

use crate::error::{Error, Result, SavedFiles};
use crate::metrics::sums::Sums;
use crate::optim::optimizer::Optimizer;
use crate::position::Position;

/// The epoch with the highest validation score; the first of them, if several have it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Counted from 1.
    pub epoch: u64,
    /// Mean soft score of the validation questions, in percent.
    pub val_score: f64,
}

/// What a resume needs beside the weights and the optimiser's tensors.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// Training questions: with others the batches would be others.
    pub(crate) n_questions: usize,
    #[serde(rename = "progress")]
    pub(crate) position: Position,
    /// Of the epoch in progress.
    pub(crate) of_epoch: Sums,
    /// Of the steps since the last step line, in the epoch in progress.
    pub(crate) of_interval: Sums,
    pub(crate) best: Option<Best>,
    /// Validations since the best one.
    pub(crate) n_since_best: u64,
}

impl State {
    /// Adds the sums of a step.
    pub(crate) fn add(&mut self, sums: Sums) {
        self.of_epoch.add(sums);
        self.of_interval.add(sums);
    }

    /// Whether there were `patience` validations without a better score; never, if that is 0.
    pub(crate) fn is_out_of_patience(&self, patience: u64) -> bool {
        patience > 0 && self.n_since_best >= patience
    }

    /// Turns to the next epoch.
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

/// Before the names of the weights in the state's file.
const WEIGHTS: &str = "model.";

/// In the header of the state's file: the state as JSON, and the checksum of all that is in the file.
const STATE: &str = "state";
const CHECKSUM: &str = "crc32c";

impl Position {
    /// Where the run in a directory stands; nothing if nothing of it was saved.
    ///
    /// # Errors
    ///
    /// When the state is there but damaged.
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

    /// Writes the state: one file, replaced as a whole. Refuses NaN and infinity.
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

    /// Goes back to the saved state, or begins one.
    pub(crate) fn restore(run: &RunDir, n_questions: usize, vs: &VarStore, optimizer: &mut Optimizer) -> Result<State> {
        let Some(state) = State::read(run)? else { return Ok(State { n_questions, ..State::default() }) };
        let path = run.state();
        let of_another = |problem: String| Error::Run {
            path: path.clone(),
            problem: format!("{problem}: resume with what the run was started with, or choose another out_dir"),
        };
        if state.n_questions != n_questions {
            let before = state.n_questions;
            return Err(of_another(format!(
                "the run has {before} training questions, and now there are {n_questions}"
            )));
        }
        let mut tensors = read_tensors(&path)?;
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let header = read_header(&path)?;
        // States of older versions have no checksum.
        if let (Some(text), Some(written)) = (header.get(STATE), header.get(CHECKSUM))
            && *written != checksum(text, &tensors)
        {
            let problem = "it is damaged: what is in it has another checksum than what was written; \
                take model.init = a checkpoint of the run, and another out_dir";
            return Err(Error::Damaged { path, problem: problem.to_owned() });
        }
        let (weights, of_optimizer): (Vec<_>, Vec<_>) =
            tensors.into_iter().partition(|(name, _)| name.starts_with(WEIGHTS));
        let mut variables = vs.variables();
        for (name, stored) in weights {
            match variables.remove(&name[WEIGHTS.len()..]) {
                Some(mut variable) if variable.size() == stored.size() => tch::no_grad(|| variable.copy_(&stored)),
                _ => return Err(of_another(format!("{name} is not in this model, or of another shape"))),
            }
        }
        if let Some(name) = variables.keys().min() {
            return Err(of_another(format!("{WEIGHTS}{name} is missing")));
        }
        optimizer.restore(state.position.step, of_optimizer).map_err(of_another)?;
        Ok(state)
    }
}

/// The checksum of a state and its tensors, which are float32 in the file.
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

/// What there is to resume after an error that ended a run. It never hides that error behind one of its own.
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

/// Fails where a tensor has NaN or infinite values.
pub(crate) fn check_finite(run: &RunDir, tensors: &[(String, Tensor)], step: u64) -> Result<()> {
    // A sum is finite if all are, and much faster to find than `isfinite`. One that overflows is no better than
    // infinite.
    let is_finite = |tensor: &Tensor| tensor.sum(tensor.kind()).double_value(&[]).is_finite();
    match tensors.iter().find(|(_, tensor)| !is_finite(tensor)) {
        Some((name, _)) => Err(Error::NotFinite { tensor: name.clone(), step, saved: saved_files(run) }),
        None => Ok(()),
    }
}

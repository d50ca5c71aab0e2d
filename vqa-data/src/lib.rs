//! wip
mod answers; mod atomic; mod dictionary; mod error; mod features; mod json; mod text; mod split; mod prepare; mod dataset; mod batch; mod loader; mod extract; mod shapes;
pub use answers::{normalize_answer, official_accuracy};
pub use atomic::{AtomicFile, remove_unfinished, write_atomic};
pub use dictionary::{AnswerDict, Encoded, WordDict, soft_score};
pub use error::{Error, Result};
pub use features::{ElementType, FeatureFile, FeatureSummary, FeatureWriter, FeatureWriterSpec, ImageRegions, RegionSource};
pub use json::{Annotation, AnnotatorAnswer, Answer, Question, read_annotations, read_questions, read_results};
pub use text::tokenize;
pub use split::*; pub use prepare::*; pub use dataset::*; pub use batch::*; pub use loader::*; pub use extract::*; pub use shapes::*;

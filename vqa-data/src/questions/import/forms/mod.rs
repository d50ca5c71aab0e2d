//! The forms of well-known datasets, recognised by their keys.

pub(super) mod clevr;
pub(super) mod daquar;
pub(super) mod gqa;
pub(super) mod json_form;
pub(super) mod slake;
pub(super) mod textvqa;
pub(super) mod visual_genome;
pub(super) mod vizwiz;
pub(super) mod vqa;
pub(super) mod vqa_rad;

use crate::questions::import::forms::json_form::JsonForm;

/// The forms that are a single JSON file. Each can be told from all others.
pub(super) const JSON_FORMS: [JsonForm; 7] =
    [vizwiz::FORM, textvqa::FORM, gqa::FORM, clevr::FORM, visual_genome::FORM, vqa_rad::FORM, slake::FORM];

/// All forms that are known, for messages.
pub(super) const KNOWN: &str = "CSV or TSV with a header; JSON lists and JSON lines of questions; Hugging Face's \
    Parquet; VQA v1 and v2, OK-VQA and VQA-CP (questions and annotations); VizWiz, TextVQA, GQA, CLEVR, Visual Genome, \
    VQA-RAD, SLAKE and DAQUAR";

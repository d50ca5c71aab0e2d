//! Dictionaries as bottom-up-attention-vqa pickles them.

use crate::files::pickle::{Pickle, Value};

/// Returns the words or answers of a pickle, in order of their ids. The pickle has the form of `dictionary.pkl`, which
/// is [{word: id}, [word]]; of `trainval_label2ans.pkl`, which is [answer]; or of `trainval_ans2label.pkl`, which is
/// {answer: id}.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<String>, String> {
    let pickle = Pickle::read(bytes).map_err(|problem| format!("not a readable pickle: {problem}"))?;
    let root = pickle.root();
    let wanted = || {
        format!(
            "the pickle is {root}, not a list of words or answers, a dict {{word: id}} or a list of both, as in \
             dictionary.pkl and trainval_label2ans.pkl"
        )
    };
    let by_ids = |value: Value| by_ids(value).ok_or_else(wanted)?;
    if root.as_dict().is_some() {
        return by_ids(root);
    }
    let items: Vec<Value> = root.as_list().ok_or_else(wanted)?.collect();
    match items[..] {
        [ids, list] if ids.as_dict().is_some() => {
            let list = texts(list).ok_or_else(wanted)?;
            if by_ids(ids)? == list {
                Ok(list)
            } else {
                Err("the ids of its dict are not those of its list".to_owned())
            }
        }
        _ => texts(root).ok_or_else(wanted),
    }
}

fn texts(list: Value) -> Option<Vec<String>> {
    list.as_list()?.map(|item| item.as_text().map(str::to_owned)).collect()
}

/// The keys of {text: id}, in order of the ids, which must be 0, 1, 2 …
fn by_ids(dict: Value) -> Option<Result<Vec<String>, String>> {
    let entries = dict.as_dict()?.map(|(text, id)| Some((id.as_int()?, text.as_text()?.to_owned())));
    let mut entries: Vec<(i64, String)> = entries.collect::<Option<_>>()?;
    entries.sort_unstable();
    if let Some((expected, (id, text))) = (0..).zip(&entries).find(|&(expected, &(id, _))| id != expected) {
        return Some(Err(format!(
            "\"{text}\" has the id {id}, but {expected} comes next: each id from 0 up must appear once"
        )));
    }
    Some(Ok(entries.into_iter().map(|(_, text)| text).collect()))
}

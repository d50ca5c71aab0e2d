//! The value of a table's cell, as text or as a list of answers.

use std::borrow::Cow;

use serde_json::Value;

/// Returns a value as text. A number is written out, `true` and `false` become "yes" and "no", and null becomes "".
///
/// # Errors
///
/// For a list or an object.
pub(super) fn text(value: &Value) -> Result<Cow<'_, str>, String> {
    match value {
        Value::Null => Ok("".into()),
        Value::Bool(is_so) => Ok(if *is_so { "yes" } else { "no" }.into()),
        // pandas turns a 2 into 2.0 in a column with a gap in it.
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 => Ok(format!("{float:.0}").into()),
            _ => Ok(number.to_string().into()),
        },
        Value::String(text) => Ok(text.into()),
        Value::Array(_) => Err("a list, not text".to_owned()),
        Value::Object(_) => Err("an object, not text".to_owned()),
    }
}

/// Returns the answers in a value, one for each annotator: a text, a list of texts, or a list of `{"answer": text}`.
///
/// # Errors
///
/// For other objects, and lists in lists.
pub(super) fn answers(value: &Value) -> Result<Vec<Cow<'_, str>>, String> {
    match value {
        Value::String(text) => list_or_text(text),
        Value::Array(list) => list.iter().map(answer).collect(),
        other => Ok(vec![answer(other)?]),
    }
}

fn answer(value: &Value) -> Result<Cow<'_, str>, String> {
    match value {
        Value::Object(object) => text(object.get("answer").ok_or("an object without \"answer\"")?),
        other => text(other),
    }
}

/// Returns the answers in a cell of text: the items of a list in Python's or JSON's form, or else the text itself.
///
/// # Errors
///
/// For a list of Python dictionaries.
pub(super) fn list_or_text(cell: &str) -> Result<Vec<Cow<'_, str>>, String> {
    let Some(items) = cell.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return Ok(vec![cell.into()]);
    };
    if let Ok(list) = serde_json::from_str::<Vec<Value>>(cell) {
        return list.iter().map(|value| answer(value).map(|text| Cow::Owned(text.into_owned()))).collect();
    }
    if items.trim_start().starts_with('{') {
        return Err("a list of Python dictionaries: write the answers as a list of strings, or as JSON".to_owned());
    }
    Ok(python_list(items).unwrap_or_else(|| vec![cell.into()]))
}

/// Parses the items of a list as Python or NumPy prints it, without its brackets; `None` if it is something else.
fn python_list(items: &str) -> Option<Vec<Cow<'static, str>>> {
    let mut list = Vec::new();
    let mut rest = items.trim_start();
    while let Some(first) = rest.chars().next() {
        let mut item = String::new();
        match first {
            '\'' | '"' => {
                let mut characters = rest.char_indices().skip(1);
                let end = loop {
                    match characters.next()? {
                        (_, '\\') => item.push(match characters.next()?.1 {
                            'n' => '\n',
                            't' => '\t',
                            other => other,
                        }),
                        (at, quote) if quote == first => break at,
                        (_, other) => item.push(other),
                    }
                };
                rest = &rest[end + 1..];
            }
            _ => {
                let end = rest.find(',').unwrap_or(rest.len());
                let bare = rest[..end].trim();
                if bare.contains(['\'', '"', '[', ']']) {
                    return None;
                }
                item.push_str(match bare {
                    "None" | "nan" => "",
                    "True" => "yes",
                    "False" => "no",
                    _ => bare,
                });
                rest = &rest[end..];
            }
        }
        list.push(item.into());
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Lists as `str` prints them in Python and NumPy.
    #[test]
    fn lists_in_a_cell() {
        for (cell, items) in [
            ("a, b", &["a, b"][..]),
            (r#"["a", "b"]"#, &["a", "b"]),
            ("['a', 'b']", &["a", "b"]),
            (r#"["it's", 'say "x"', 'it\'s "x"']"#, &["it's", "say \"x\"", "it's \"x\""]),
            ("['a' 'b'\n 'c']", &["a", "b", "c"]),
            ("[a, b c]", &["a", "b c"]),
            ("[2, 3.0]", &["2", "3"]),
            ("[]", &[]),
            ("['a', None, nan, True, False]", &["a", "", "", "yes", "no"]),
            ("['None', 'True']", &["None", "True"]),
            (r#"[{"answer": "a", "answer_id": 1}]"#, &["a"]),
            ("['a", &["['a"]),
            ("['a]", &["['a]"]),
            ("[x] or [y]", &["[x] or [y]"]),
        ] {
            assert_eq!(list_or_text(cell).unwrap(), items, "{cell}");
        }
        assert!(list_or_text("[{'answer': 'a'}]").unwrap_err().contains("Python dictionaries"));
    }

    #[test]
    fn values_as_text() {
        for (value, wanted) in [
            (json!("a"), "a"),
            (json!(2), "2"),
            (json!(2.0), "2"),
            (json!(2.5), "2.5"),
            (json!(true), "yes"),
            (json!(null), ""),
        ] {
            assert_eq!(text(&value).unwrap(), wanted);
        }
        assert!(text(&json!([1])).is_err() && text(&json!({})).is_err());
        assert_eq!(answers(&json!(["a", {"answer": 2}])).unwrap(), ["a", "2"]);
        assert!(answers(&json!([{"text": 2}])).unwrap_err().contains("without \"answer\""));
    }
}

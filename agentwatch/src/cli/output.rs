//! How verbs write what they have: a table for people, or objects for programs.

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

/// How something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// One object a line; a stable contract
    Json,
    /// A document each, with the same fields
    Yaml,
}

/// A form for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line.
    Json,
    /// A document.
    Yaml,
}

impl Output {
    /// The form for programs; `None` where it is for people.
    pub fn form(self) -> Option<Form> {
        match self {
            Self::Table => None,
            Self::Json => Some(Form::Json),
            Self::Yaml => Some(Form::Yaml),
        }
    }
}

impl Form {
    /// An object that is a line of JSON already, in this form.
    ///
    /// # Errors
    ///
    /// When it is no JSON.
    pub fn again(self, json: &str) -> Result<String> {
        match self {
            Self::Json => Ok(json.trim_end().to_owned() + "\n"),
            Self::Yaml => self.text(&serde_json::from_str::<serde_json::Value>(json)?),
        }
    }

    /// An object in this form.
    ///
    /// # Errors
    ///
    /// When it cannot be written so.
    pub fn text(self, object: &impl Serialize) -> Result<String> {
        Ok(match self {
            Self::Json => serde_json::to_string(object)? + "\n",
            // By way of JSON, so that both have the same.
            Self::Yaml => {
                let text = serde_saphyr::to_string(&serde_json::to_value(object)?)?;
                format!("---\n{text}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_forms_have_the_same() {
        let object = json!({"name": "a: b", "n": 18_446_744_073_709_551_615_u64, "list": ["no", "1"], "o": {}});
        let line = Form::Json.text(&object).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let document = Form::Yaml.text(&object).unwrap();
        let read: serde_json::Value = serde_saphyr::from_str(&document).unwrap();
        assert_eq!(read, object, "{document}");
        assert_eq!(Form::Yaml.again(&line).unwrap(), document);
        assert_eq!(Form::Json.again(&line).unwrap(), line);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&line).unwrap(),
            object
        );
    }
}

//! What a setting's value may be: read from the type's schema, and used to read text and to say what would be right.

use serde_json::{Number, Value, json};

/// The longest duration that a setting may ask for, in seconds: a day.
const MAX_SECONDS: f64 = 86_400.0;

/// What a setting's value may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// True or false.
    Boolean,
    /// A whole number within bounds.
    Integer {
        /// The least.
        min: i128,
        /// The most.
        max: i128,
    },
    /// A finite number within bounds.
    Number(Bounds),
    /// Any text; its type may ask for more.
    Text {
        /// Whether the file may also have a number.
        or_number: bool,
    },
    /// One of these words.
    Choice(Vec<String>),
    /// Several; separated by commas where they are one text.
    List(Box<Kind>),
    /// One, or several.
    OneOrList(Box<Kind>),
    /// A text that is never shown.
    Secret,
}

/// The bounds of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The least, if there is one.
    pub min: Option<f64>,
    /// The most, if there is one.
    pub max: Option<f64>,
    /// Whether the least itself is too small.
    pub above_min: bool,
    /// Whether it is kept as a 32-bit number, and therefore shown with as many digits.
    pub is_single: bool,
}

impl Kind {
    /// Reads a setting's schema.
    ///
    /// # Panics
    ///
    /// No kind fits the schema; then the setting's type has to say what it is by `#[schemars(with = …)]`.
    pub(super) fn of(name: &str, schema: &Value) -> Self {
        if schema["writeOnly"] == true {
            return Self::Secret;
        }
        let alternatives = alternatives(schema);
        let words: Vec<String> = alternatives.iter().flat_map(|alternative| words(alternative)).collect();
        if !words.is_empty() {
            return Self::Choice(words);
        }
        match alternatives.as_slice() {
            [single] => Self::of_one(name, single),
            [one, list] if type_of(list) == "array" => Self::OneOrList(Box::new(Self::of_one(name, one))),
            several if several.iter().any(|schema| type_of(schema) == "string") => {
                Self::Text { or_number: several.iter().any(|schema| type_of(schema) == "number") }
            }
            _ => panic!("no kind of setting fits the schema of {name}: {schema}"),
        }
    }

    fn of_one(name: &str, schema: &Value) -> Self {
        match type_of(schema) {
            _ if schema["writeOnly"] == true => Self::Secret,
            "boolean" => Self::Boolean,
            "integer" => Self::integer(name, schema),
            "number" => Self::Number(Bounds::of(name, schema)),
            "string" => Self::Text { or_number: false },
            "array" => Self::List(Box::new(Self::of(name, &schema["items"]))),
            _ => panic!("no kind of setting fits the schema of {name}: {schema}"),
        }
    }

    fn integer(name: &str, schema: &Value) -> Self {
        let (least, most) = match schema["format"].as_str() {
            Some("uint8") => (0, u8::MAX.into()),
            Some("uint16") => (0, u16::MAX.into()),
            Some("uint32") => (0, u32::MAX.into()),
            Some(format) if format.starts_with("uint") => (0, u64::MAX.into()),
            Some("int32") => (i32::MIN.into(), i32::MAX.into()),
            _ => (i64::MIN.into(), i64::MAX.into()),
        };
        let bounds = Bounds::of(name, schema);
        // Bounds that are written into the types are small numbers, which a float holds exactly.
        let min = bounds.min.map_or(least, |min| least.max(min as i128 + i128::from(bounds.above_min)));
        Self::Integer { min, max: bounds.max.map_or(most, |max| most.min(max as i128)) }
    }

    /// Whether the value must not be shown.
    pub fn is_secret(&self) -> bool {
        match self {
            Self::Secret => true,
            Self::List(item) | Self::OneOrList(item) => item.is_secret(),
            _ => false,
        }
    }

    /// Whether there may be several.
    pub fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::OneOrList(_))
    }

    /// Whether a value may begin with a minus.
    pub fn is_number(&self) -> bool {
        match self {
            Self::Integer { .. } | Self::Number(_) => true,
            Self::List(item) | Self::OneOrList(item) => item.is_number(),
            _ => false,
        }
    }

    /// Reads a value that was written as one text, as in the environment.
    ///
    /// # Errors
    ///
    /// What would be right.
    pub(super) fn read(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        let value = match self {
            Self::Text { .. } | Self::Choice(_) | Self::Secret => Some(Value::from(text)),
            Self::Boolean => boolean(text).map(Value::from),
            Self::Integer { .. } => whole(text).map(Value::Number),
            Self::Number(_) => text.parse().ok().and_then(Number::from_f64).map(Value::Number),
            Self::OneOrList(item) if !text.contains(',') => Some(item.read(text)?),
            Self::List(item) | Self::OneOrList(item) => {
                // A comma at the end, or a line's end between secrets of a mounted file, separates nothing.
                let parts = text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty());
                Some(parts.map(|part| item.read(part)).collect::<Result<Vec<_>, _>>()?.into())
            }
        };
        let value = value.ok_or_else(|| self.wrong(&Value::from(text)))?;
        self.check(&value).map(|()| value)
    }

    /// Checks a value that has a type of its own, as in the file.
    ///
    /// # Errors
    ///
    /// What would be right.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let fits = match (self, value) {
            (Self::Boolean, Value::Bool(_)) | (Self::Text { .. } | Self::Secret, Value::String(_)) => true,
            (Self::Text { or_number }, Value::Number(_)) => *or_number,
            (Self::Integer { min, max }, Value::Number(number)) => {
                let number = number.as_u64().map(i128::from).or(number.as_i64().map(i128::from));
                number.is_some_and(|number| (*min..=*max).contains(&number))
            }
            (Self::Number(bounds), Value::Number(number)) => number.as_f64().is_some_and(|n| bounds.contain(n)),
            (Self::Choice(words), Value::String(text)) => words.contains(text),
            (Self::List(item) | Self::OneOrList(item), Value::Array(values)) => {
                return values.iter().try_for_each(|value| item.check(value));
            }
            (Self::OneOrList(item), one) => return item.check(one),
            _ => false,
        };
        if fits { Ok(()) } else { Err(self.wrong(value)) }
    }

    fn wrong(&self, value: &Value) -> String {
        if self.is_secret() {
            return format!("is not {}", self.expected());
        }
        let shown: String = value.to_string().chars().take(80).collect();
        format!("is {shown}; write {}", self.expected())
    }

    /// The JSON Schema of a value in the file: the type's, without "absent", and with our bounds.
    pub(super) fn schema(&self) -> Value {
        match self {
            Self::Boolean => json!({ "type": "boolean" }),
            Self::Integer { min, max } => json!({ "type": "integer", "minimum": exact(*min), "maximum": exact(*max) }),
            Self::Number(bounds) => bounds.schema(),
            Self::Choice(words) => json!({ "type": "string", "enum": words }),
            Self::List(item) => json!({ "type": "array", "items": item.schema() }),
            Self::OneOrList(item) => json!({
                "anyOf": [item.schema(), { "type": "array", "items": item.schema() }],
            }),
            Self::Secret => json!({ "type": "string", "writeOnly": true }),
            Self::Text { or_number: true } => json!({ "type": ["string", "number"] }),
            Self::Text { or_number: false } => json!({ "type": "string" }),
        }
    }

    /// What would be right, for an error and for the pages.
    pub fn expected(&self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Integer { min, max } if *max >= u32::MAX.into() => format!("a whole number from {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number(bounds) => bounds.expected(),
            Self::Text { .. } => "a text".to_owned(),
            Self::Choice(words) => match words.as_slice() {
                [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
                words => words.join(", "),
            },
            Self::List(item) if item.is_secret() => "a list of texts in quotation marks".to_owned(),
            Self::List(item) => format!("a list, each of it {}", item.expected()),
            Self::OneOrList(item) => format!("{}, or a list of them", item.expected()),
            Self::Secret => "a text in quotation marks".to_owned(),
        }
    }

    /// A value as TOML has it, for the default file and for `config show`.
    pub fn written(&self, value: &Value) -> String {
        match (self, value) {
            (Self::List(item) | Self::OneOrList(item), Value::Array(values)) => {
                format!("[{}]", values.iter().map(|value| item.written(value)).collect::<Vec<_>>().join(", "))
            }
            (Self::OneOrList(item), one) => item.written(one),
            (Self::Number(bounds), Value::Number(number)) => {
                let number = number.as_f64().unwrap_or_default();
                // Written with a point, so that it is seen that fractions are allowed.
                if bounds.is_single { format!("{:?}", number as f32) } else { format!("{number:?}") }
            }
            // What JSON escapes is escaped alike in TOML.
            (_, value) => value.to_string(),
        }
    }
}

impl Bounds {
    /// Reads the schema; every duration is at most a day, and a time limit is more than nothing.
    fn of(name: &str, schema: &Value) -> Self {
        let above = schema["exclusiveMinimum"].as_f64();
        let (min, max) = (above.or(schema["minimum"].as_f64()), schema["maximum"].as_f64());
        let is_single = schema["format"] == "float";
        if !name.ends_with("_seconds") {
            return Self { min, max, above_min: above.is_some(), is_single };
        }
        Self {
            min: Some(min.unwrap_or_default().max(0.0)),
            max: Some(max.unwrap_or(MAX_SECONDS).min(MAX_SECONDS)),
            above_min: above.is_some() || (name.ends_with("timeout_seconds") && min.unwrap_or_default() <= 0.0),
            is_single,
        }
    }

    fn schema(&self) -> Value {
        let mut schema = json!({ "type": "number" });
        if let Some(min) = self.min {
            schema[if self.above_min { "exclusiveMinimum" } else { "minimum" }] = min.into();
        }
        if let Some(max) = self.max {
            schema["maximum"] = max.into();
        }
        schema
    }

    fn contain(&self, number: f64) -> bool {
        let is_above = |min| if self.above_min { number > min } else { number >= min };
        number.is_finite() && self.min.is_none_or(is_above) && self.max.is_none_or(|max| number <= max)
    }

    fn expected(&self) -> String {
        let from = if self.above_min { "above" } else { "from" };
        match (self.min, self.max) {
            (Some(min), Some(max)) if self.above_min => format!("a number above {min}, at most {max}"),
            (Some(min), Some(max)) => format!("a number from {min} to {max}"),
            (Some(min), None) => format!("a number {from} {min}"),
            (None, Some(max)) => format!("a number up to {max}"),
            (None, None) => "a number".to_owned(),
        }
    }
}

/// The ways in which a value may be written, without the one for "absent".
fn alternatives(schema: &Value) -> Vec<&Value> {
    let several = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    let Some(several) = several else { return vec![schema] };
    several.iter().filter(|schema| type_of(schema) != "null").flat_map(alternatives).collect()
}

/// The words that the schema allows.
fn words(schema: &Value) -> Vec<String> {
    let listed = schema["enum"].as_array().into_iter().flatten();
    listed.chain(schema.get("const")).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The type that is not "absent"; empty if there is none.
fn type_of(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or_default(),
        single => single.as_str().unwrap_or_default(),
    }
}

/// A bound as JSON has it; every one is of a 64-bit type.
fn exact(bound: i128) -> Value {
    u64::try_from(bound).map_or_else(|_| Value::from(i64::try_from(bound).unwrap_or(i64::MIN)), Value::from)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn whole(text: &str) -> Option<Number> {
    text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from)).ok()
}

//! Parser of DreamBench's `prompts_and_classes.txt`: the subjects and the sentences for them.
//!
//! The file is written for people: rows `subject_name,class`, then two Python lists of format strings, one for objects
//! and one for live subjects, with placeholders for a rare word (which stands for the subject) and for the class.
//! EchoGen receives the subject as a picture, so the rare word is omitted. The file does not state which subjects are
//! live: cats and dogs are, and rows whose third value is `live`.

use anyhow::{Context, Result, anyhow, bail, ensure};

/// Classes whose subjects are always live.
const LIVE: [&str; 2] = ["cat", "dog"];

/// Placeholders of the rare word and of the class.
const TOKEN: &str = "{0}";
const CLASS: &str = "{1}";

/// A row of the table of subjects.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Name of the subject and of its folder.
    pub(super) name: String,
    pub(super) class: String,
    is_live: bool,
}

/// The parsed file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Listing {
    pub(super) rows: Vec<Row>,
    objects: Vec<String>,
    live: Vec<String>,
}

/// The part of the file that a line belongs to.
enum Part {
    /// Before the first heading.
    Start,
    Rows,
    /// After the heading of a list, before its first entry.
    Heading(Kind),
    List(Kind),
}

#[derive(Clone, Copy)]
enum Kind {
    Objects,
    Live,
}

impl Listing {
    /// Parses the file's text. An error states the line.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (mut listing, mut part) = (Self::default(), Part::Start);
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim().trim_start_matches('\u{feff}');
            if !line.is_empty() {
                part = listing.line(part, line).with_context(|| format!("line {number}"))?;
            }
        }
        ensure!(!matches!(part, Part::List(_)), "the last list of sentences is not closed by a ]");
        listing.check()?;
        Ok(listing)
    }

    /// Returns the sentences for a subject, without the rare word.
    pub(super) fn captions(&self, row: &Row) -> Vec<String> {
        let templates = if row.is_live { &self.live } else { &self.objects };
        templates.iter().map(|template| caption(template, &row.class)).collect()
    }

    fn line(&mut self, part: Part, line: &str) -> Result<Part> {
        if let Part::List(kind) = part {
            return self.entry(kind, line);
        }
        let lower = line.to_lowercase();
        if lower == "classes" || lower.replace(' ', "") == "subject_name,class" {
            return Ok(Part::Rows);
        }
        if let Some((_, first)) = line.split_once('[') {
            let kind = if let Part::Heading(kind) = part { kind } else { Kind::Objects };
            return if first.trim().is_empty() { Ok(Part::List(kind)) } else { self.entry(kind, first.trim()) };
        }
        if lower.contains("prompt") && !line.contains(',') {
            return Ok(Part::Heading(if lower.contains("live") { Kind::Live } else { Kind::Objects }));
        }
        ensure!(
            matches!(part, Part::Rows),
            "{line:?} is neither a heading nor below one; subjects follow the line subject_name,class"
        );
        self.rows.push(row(line)?);
        Ok(Part::Rows)
    }

    /// Parses an entry of a list, or the end of the list.
    fn entry(&mut self, kind: Kind, line: &str) -> Result<Part> {
        if line.starts_with(']') {
            return Ok(Part::Heading(kind));
        }
        let (template, rest) = quoted(line)?;
        let unknown = template.replace(TOKEN, "").replace(CLASS, "").contains(['{', '}']);
        ensure!(
            template.contains(CLASS) && !unknown,
            "{template:?} must have {CLASS}, may have {TOKEN}, and no others"
        );
        match kind {
            Kind::Objects => self.objects.push(template),
            Kind::Live => self.live.push(template),
        }
        Ok(if rest.ends_with(']') { Part::Heading(kind) } else { Part::List(kind) })
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.rows.is_empty(), "it lists no subjects; they follow the line subject_name,class");
        for (index, row) in self.rows.iter().enumerate() {
            ensure!(self.rows[..index].iter().all(|other| other.name != row.name), "{} is listed twice", row.name);
            let kind = if row.is_live { "live subjects" } else { "objects" };
            ensure!(!self.captions(row).is_empty(), "it has no sentences for {kind}, such as {}", row.name);
        }
        Ok(())
    }
}

fn row(line: &str) -> Result<Row> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let (name, class, is_live) = match fields[..] {
        [name, class] => (name, class, LIVE.contains(&class)),
        [name, class, "live"] => (name, class, true),
        [name, class, "object"] => (name, class, false),
        _ => bail!("{line:?} is not subject_name,class, or these and live or object"),
    };
    ensure!(!name.is_empty() && !class.is_empty(), "{line:?} lacks a name or a class");
    // The name becomes part of paths.
    let is_plain = !name.starts_with('.') && !name.contains(['/', '\\', ':']);
    ensure!(is_plain, "{name:?} cannot be the name of a folder");
    Ok(Row { name: name.to_owned(), class: class.to_owned(), is_live })
}

/// Returns the text between the line's first pair of quotes, and the rest of the line.
fn quoted(line: &str) -> Result<(String, &str)> {
    let no_text = || anyhow!("{line:?} is no sentence in quotes");
    let quote = line.chars().next().filter(|first| matches!(first, '\'' | '"')).ok_or_else(no_text)?;
    let mut text = String::new();
    let mut characters = line.char_indices().skip(1);
    while let Some((place, character)) = characters.next() {
        match character {
            '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
            _ if character == quote => return Ok((text, &line[place + 1..])),
            _ => text.push(character),
        }
    }
    bail!("the sentence {line:?} has no closing quote")
}

fn caption(template: &str, class: &str) -> String {
    let text = template.replace(TOKEN, "").replace(CLASS, class);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
Classes

subject_name,class
backpack,backpack
bear_plushie,stuffed animal
dog6,dog
pony,horse,live

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a cube shaped {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
\"a {0} {1} in a chef's outfit\".format(unique_token, class_token),
'a {0} {1} in a fireman\\'s hat'.format(unique_token, class_token),
'a wet {1}'.format(unique_token, class_token)]
";

    fn captions(listing: &Listing, index: usize) -> Vec<String> {
        listing.captions(&listing.rows[index])
    }

    #[test]
    fn the_published_form_is_read() {
        let listing = Listing::parse(FILE).unwrap();
        let names: Vec<&str> = listing.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["backpack", "bear_plushie", "dog6", "pony"]);
        assert_eq!(captions(&listing, 1), ["a stuffed animal in the jungle", "a cube shaped stuffed animal"]);
        assert_eq!(captions(&listing, 2), ["a dog in a chef's outfit", "a dog in a fireman's hat", "a wet dog"]);
        assert_eq!(captions(&listing, 3)[2], "a wet horse");
    }

    #[test]
    fn line_ends_and_blanks_do_not_matter() {
        let windows = FILE.replace('\n', "\r\n").replace("dog6,dog", "  dog6 , dog ");
        assert_eq!(Listing::parse(&format!("\u{feff}{windows}")).unwrap(), Listing::parse(FILE).unwrap());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (from, to, message) in [
            ("dog6,dog", "dog6", "line 6: \"dog6\" is not subject_name,class, or these and live or object"),
            ("dog6,dog", "dog6,dog,undead", "line 6: \"dog6,dog,undead\" is not"),
            ("dog6,dog", "dog6,", "line 6: \"dog6,\" lacks a name or a class"),
            ("dog6,dog", "../dog6,dog", "line 6: \"../dog6\" cannot be the name of a folder"),
            ("dog6,dog", "backpack,dog", "backpack is listed twice"),
            ("'a cube shaped {0} {1}'", "'a cube shaped {0}'", "line 15: \"a cube shaped {0}\" must have {1}"),
            ("'a cube shaped {0} {1}'", "'a {2} {0} {1}'", "line 15: \"a {2} {0} {1}\" must have {1}"),
            ("'a cube shaped {0} {1}'", "'a cube shaped {0} {1}", "line 15: the sentence"),
            ("'a cube shaped", "a cube shaped", "is no sentence in quotes"),
            ("class_token)]\n", "class_token)\n", "the last list of sentences is not closed by a ]"),
            ("Live Subject Prompts", "More Prompts", "it has no sentences for live subjects, such as dog6"),
            ("Classes\n\nsubject_name,class", "Subjects", "line 1: \"Subjects\" is neither a heading nor below one"),
        ] {
            let text = FILE.replacen(from, to, 1);
            assert_ne!(text, FILE, "{from}");
            let error = format!("{:#}", Listing::parse(&text).unwrap_err());
            assert!(error.contains(message), "{to}: {error}");
        }
        let error = Listing::parse("").unwrap_err();
        assert_eq!(error.to_string(), "it lists no subjects; they follow the line subject_name,class");
    }
}

//! A small built-in stroke font for captions. Every glyph is a few strokes, so it can be drawn at any size.
//!
//! Font units: capitals are 14 high (0 is their top, 14 the baseline), lower-case letters begin at 4, and descenders
//! end at 18 units. Accented Latin letters are drawn without their accents; other scripts are drawn as boxes.

/// Height of a capital in font units.
pub(crate) const CAPITAL_HEIGHT: f32 = 14.0;

/// Space between two glyphs in font units.
const GAP: f32 = 3.2;

/// Width of a space in font units.
const BLANK: f32 = 3.0;

/// Line segments per piece of a curve.
const PIECES: usize = 6;

/// Each character with its width and strokes. Strokes are separated by `;`: `l` is a polyline, `s` a smooth curve
/// through points, `e` an ellipse (centre, radii). Points are `x,y` in font units.
const GLYPHS: &[(char, f32, &str)] = &[
    ('A', 9.8, "l 0,14 4.9,0 9.8,14;l 1.7,9.4 8.1,9.4"),
    (
        'B',
        8.7,
        "l 4,0 0,0 0,14 4.4,14;s 4,0 6.8,.8 7.8,3.4 6.8,6 4,6.7;l 0,6.7 4.4,6.7;s 4.4,6.7 7.6,7.6 8.7,10.3 7.6,13.1 4.4,14",
    ),
    ('C', 9.4, "s 9.4,2.8 7.6,.8 5,0 1.5,1.9 0,7 1.5,12.1 5,14 7.6,13.2 9.4,11.2"),
    ('D', 9.4, "l 3.6,0 0,0 0,14 3.6,14;s 3.6,0 6.6,.6 8.7,3 9.4,7 8.7,11 6.6,13.4 3.6,14"),
    ('E', 7.4, "l 7.2,0 0,0 0,14 7.4,14;l 0,6.8 6.4,6.8"),
    ('F', 7.2, "l 7.2,0 0,0 0,14;l 0,6.9 6.2,6.9"),
    ('G', 9.7, "s 9.4,2.8 7.6,.8 5,0 1.5,1.9 0,7 1.5,12.1 5,14 7.9,13.2 9.7,11;l 9.7,11 9.7,7.6 5.6,7.6"),
    ('H', 9.0, "l 0,0 0,14;l 9,0 9,14;l 0,6.8 9,6.8"),
    ('I', 1.0, "l .5,0 .5,14"),
    ('J', 5.6, "l 5.6,0 5.6,9.6;s 5.6,9.6 5,12.9 2.7,14 .6,13 0,11"),
    ('K', 8.9, "l 0,0 0,14;l 8.4,0 0,8.6;l 3.3,5.4 8.9,14"),
    ('L', 7.0, "l 0,0 0,14 7,14"),
    ('M', 11.2, "l 0,14 0,0 5.6,9 11.2,0 11.2,14"),
    ('N', 9.0, "l 0,14 0,0 9,14 9,0"),
    ('O', 10.8, "e 5.4,7 5.4,7"),
    ('P', 8.3, "l 0,14 0,0 4.2,0;s 4.2,0 7.2,.9 8.3,3.8 7.2,6.8 4.2,7.7;l 4.2,7.7 0,7.7"),
    ('Q', 10.8, "e 5.4,7 5.4,7;l 6.6,10.4 10.2,14.8"),
    ('R', 8.6, "l 0,14 0,0 4.2,0;s 4.2,0 7.2,.9 8.3,3.8 7.2,6.8 4.2,7.7;l 0,7.7 4.2,7.7 8.6,14"),
    ('S', 8.4, "s 7.8,2.6 6.4,.6 4,0 1.3,.8 .4,3.4 1.5,5.7 4.2,6.8 7.2,8.1 8.4,10.6 7.3,13.1 4.3,14 1.6,13.3 0,11.2"),
    ('T', 9.0, "l 0,0 9,0;l 4.5,0 4.5,14"),
    ('U', 9.0, "l 0,0 0,8.8;s 0,8.8 1,12.6 4.5,14 8,12.6 9,8.8;l 9,8.8 9,0"),
    ('V', 9.6, "l 0,0 4.8,14 9.6,0"),
    ('W', 13.6, "l 0,0 3.4,14 6.8,1.6 10.2,14 13.6,0"),
    ('X', 8.8, "l 0,0 8.8,14;l 8.8,0 0,14"),
    ('Y', 9.0, "l 0,0 4.5,7 9,0;l 4.5,7 4.5,14"),
    ('Z', 8.6, "l .3,0 8.4,0 0,14 8.6,14"),
    ('a', 8.0, "e 4,9 4,5;l 8,4 8,14"),
    ('b', 8.0, "l 0,0 0,14;e 4,9 4,5"),
    ('c', 7.6, "s 7.6,6 6.2,4.5 4,4 1.2,5.6 0,9 1.2,12.4 4,14 6.2,13.5 7.6,12"),
    ('d', 8.0, "e 4,9 4,5;l 8,0 8,14"),
    ('e', 7.9, "l 0,8.8 7.9,8.8;s 7.9,8.8 6.9,5.5 4,4 1.2,5.5 0,9 1.2,12.5 4,14 6,13.6 7.4,12.2"),
    ('f', 4.8, "s 5,.2 3.6,0 2.4,.9 2,3;l 2,3 2,14;l 0,4.4 4.6,4.4"),
    ('g', 8.0, "e 4,9 4,5;l 8,4 8,14;s 8,14 7,17.2 4.2,18.3 1.4,17.6 .6,16.6"),
    ('h', 7.2, "l 0,0 0,14;s 0,8.5 1,5.4 3.8,4 6.4,4.9 7.2,7.8;l 7.2,7.8 7.2,14"),
    ('i', 1.0, "l .5,4 .5,14;l .5,.4 .5,.6"),
    ('j', 2.0, "l 1.5,4 1.5,14.6;s 1.5,14.6 .9,17.4 -1.4,18.1;l 1.5,.4 1.5,.6"),
    ('k', 7.2, "l 0,0 0,14;l 6.8,4 0,10.2;l 2.8,7.8 7.2,14"),
    ('l', 1.0, "l .5,0 .5,14"),
    (
        'm',
        11.6,
        "l 0,4 0,14;s 0,8 .9,5.3 3.1,4 5.1,4.8 5.8,7.4;l 5.8,7.4 5.8,14;s 5.8,8 6.7,5.3 8.9,4 10.9,4.8 11.6,7.4;l 11.6,7.4 11.6,14",
    ),
    ('n', 7.2, "l 0,4 0,14;s 0,8.5 1,5.4 3.8,4 6.4,4.9 7.2,7.8;l 7.2,7.8 7.2,14"),
    ('o', 8.4, "e 4.2,9 4.2,5"),
    ('p', 8.0, "l 0,4 0,18;e 4,9 4,5"),
    ('q', 8.0, "e 4,9 4,5;l 8,4 8,18"),
    ('r', 4.4, "l 0,4 0,14;s 0,8.5 .9,5.6 2.9,4.2 4.6,4.2"),
    ('s', 6.7, "s 6.3,5.8 5.2,4.4 3.3,4 1.2,4.6 .4,6.4 1.2,8 3.4,8.9 5.8,9.8 6.7,11.6 5.8,13.4 3.4,14 1.2,13.5 0,12"),
    ('t', 5.0, "l 2,1 2,11;s 2,11 2.5,13.2 4,14 5.2,13.7;l 0,4.4 4.9,4.4"),
    ('u', 7.2, "l 0,4 0,10.2;s 0,10.2 .8,13.1 3.4,14 6.2,12.6 7.2,9.5;l 7.2,4 7.2,14"),
    ('v', 7.6, "l 0,4 3.8,14 7.6,4"),
    ('w', 11.2, "l 0,4 2.8,14 5.6,5 8.4,14 11.2,4"),
    ('x', 7.0, "l 0,4 7,14;l 7,4 0,14"),
    ('y', 7.6, "l 0,4 3.9,13.8;l 7.6,4 3.4,15.2;s 3.4,15.2 2.2,17.6 .2,18.1"),
    ('z', 7.0, "l .3,4 6.8,4 .1,14 7,14"),
    ('0', 8.4, "e 4.2,7 4.2,7"),
    ('1', 4.4, "l .6,2.8 3.6,0 3.6,14"),
    ('2', 8.0, "s .3,3.6 1.4,1 4,0 6.8,.9 7.7,3.5 6.7,6.4 4,9.6 .1,14;l .1,14 8,14"),
    (
        '3',
        8.0,
        "s .5,2.2 2,.4 4,0 6.6,.8 7.4,3.2 6.4,5.6 3.6,6.5;s 3.6,6.5 6.8,7.3 8,10.2 6.9,12.9 4,14 1.6,13.4 0,11.6",
    ),
    ('4', 8.2, "l 6,14 6,0 0,10 8.2,10"),
    ('5', 8.0, "l 7.2,0 1.4,0 .8,6.2;s .8,6.2 2.3,5.3 4.2,5 7,6.2 8,9.4 6.9,12.7 4,14 1.6,13.4 0,11.8"),
    ('6', 8.2, "s 6.6,0 3.4,2.2 1,5.8 0,9.6;e 4.1,9.6 4.1,4.4"),
    ('7', 7.8, "l 0,0 7.8,0 2.6,14"),
    ('8', 8.2, "e 4.1,3.4 3.4,3.4;e 4.1,10.4 4.1,3.6"),
    ('9', 8.2, "e 4.1,4.4 4.1,4.4;s 8.2,4.4 7.2,8.2 4.8,11.8 1.6,14"),
    ('.', 1.0, "l .5,13.5 .5,13.7"),
    (',', 1.2, "l .9,13.4 .9,14.2 .1,16.2"),
    (':', 1.0, "l .5,5.4 .5,5.6;l .5,13.5 .5,13.7"),
    (';', 1.2, "l .7,5.4 .7,5.6;l .9,13.4 .9,14.2 .1,16.2"),
    ('!', 1.0, "l .5,0 .5,9.6;l .5,13.5 .5,13.7"),
    ('?', 6.9, "s 0,3 1.2,.8 3.5,0 6,.8 6.9,3.2 5.9,5.4 4.2,7 3.6,9.8;l 3.6,13.5 3.6,13.7"),
    ('\'', 1.0, "l .5,0 .5,3.6"),
    ('"', 3.8, "l .5,0 .5,3.6;l 3.2,0 3.2,3.6"),
    ('-', 4.6, "l 0,8.8 4.6,8.8"),
    ('_', 8.0, "l 0,16 8,16"),
    ('+', 8.0, "l 0,8 8,8;l 4,4 4,12"),
    ('=', 8.0, "l 0,6.4 8,6.4;l 0,10 8,10"),
    ('*', 6.0, "l 3,1 3,7;l .4,2.5 5.6,5.5;l 5.6,2.5 .4,5.5"),
    ('/', 6.0, "l 6,-.5 0,15.5"),
    ('\\', 6.0, "l 0,-.5 6,15.5"),
    ('(', 3.6, "s 3.6,-1.2 1,2.5 .1,7 1,11.5 3.6,15.2"),
    (')', 3.6, "s 0,-1.2 2.6,2.5 3.5,7 2.6,11.5 0,15.2"),
    ('[', 3.2, "l 3.2,-1 .2,-1 .2,15.4 3.2,15.4"),
    (']', 3.2, "l 0,-1 3,-1 3,15.4 0,15.4"),
    ('{', 4.0, "s 4,-1 2.4,-.4 2,2 1.8,5.6 0,7.1 1.8,8.6 2,12.2 2.4,14.8 4,15.4"),
    ('}', 4.0, "s 0,-1 1.6,-.4 2,2 2.2,5.6 4,7.1 2.2,8.6 2,12.2 1.6,14.8 0,15.4"),
    ('<', 7.0, "l 7,3.6 0,8 7,12.4"),
    ('>', 7.0, "l 0,3.6 7,8 0,12.4"),
    ('#', 8.0, "l 2.6,1 1.2,13;l 6.8,1 5.4,13;l .3,4.8 8,4.8;l 0,9.2 7.6,9.2"),
    ('%', 11.4, "e 2.3,3.2 2.3,3.2;e 9.1,10.8 2.3,3.2;l 9.6,0 1.8,14"),
    (
        '&',
        9.0,
        "s 9,14 4,8.4 1.8,5 1.6,2.6 2.6,.6 4.2,0 6,.8 6.4,2.9 5,5.2 1.6,7.6 0,10.4 1,13 3.8,14 6.4,12.9 8.4,9.6 8.8,7.6",
    ),
    (
        '@',
        12.0,
        "e 6,8 2.6,2.9;s 8.6,5 8.6,9 9.6,11 11.4,10.4 12,7.6 10.4,3.2 6.2,1.4 2,3.2 0,8 2,12.9 6.2,14.8 9,14.2",
    ),
    (
        '$',
        8.4,
        "s 7.8,2.6 6.4,.6 4,0 1.3,.8 .4,3.4 1.5,5.7 4.2,6.8 7.2,8.1 8.4,10.6 7.3,13.1 4.3,14 1.6,13.3 0,11.2;l 4.2,-1.6 4.2,15.6",
    ),
    ('^', 6.0, "l 0,5 3,0 6,5"),
    ('~', 8.4, "s 0,9 1.6,7.4 3.4,7.8 5,8.9 6.8,9.3 8.4,7.7"),
    ('|', 1.0, "l .5,-1 .5,16"),
    ('`', 1.8, "l 0,0 1.8,2.4"),
    ('\u{b7}', 1.0, "l .5,8 .5,8.2"),
];

/// The glyph of a character that the font lacks.
const UNKNOWN: (f32, &str) = (8.0, "l 0,0 8,0 8,14 0,14 0,0");

/// Accented letters, and the letters they are drawn as.
const FOLDED: &[(&str, char)] = &[
    ("ÀÁÂÃÄÅĀĂĄ", 'A'),
    ("ÇĆČ", 'C'),
    ("ÈÉÊËĒĖĘĚ", 'E'),
    ("ÌÍÎÏĪİ", 'I'),
    ("ÑŃŇ", 'N'),
    ("ÒÓÔÕÖØŌŐ", 'O'),
    ("ŚŠŞ", 'S'),
    ("ÙÚÛÜŪŮŰ", 'U'),
    ("Ý", 'Y'),
    ("ŹŻŽ", 'Z'),
    ("Ł", 'L'),
    ("àáâãäåāăą", 'a'),
    ("çćč", 'c'),
    ("èéêëēėęě", 'e'),
    ("ìíîïīı", 'i'),
    ("ñńň", 'n'),
    ("òóôõöøōő", 'o'),
    ("śšş", 's'),
    ("ùúûüūůű", 'u'),
    ("ýÿ", 'y'),
    ("źżž", 'z'),
    ("ł", 'l'),
    ("ř", 'r'),
    ("ğ", 'g'),
    ("‘’‚ʼ", '\''),
    ("“”„«»", '"'),
    ("–—‐‑−", '-'),
    ("•", '\u{b7}'),
];

/// A line segment between two points, in font units.
pub(crate) type Segment = [(f32, f32); 2];

/// Returns the width of the text in font units.
pub(crate) fn width(text: &str) -> f32 {
    let widths = text.chars().map(|c| advance(c) + GAP).sum::<f32>();
    (widths - GAP).max(0.0)
}

/// Returns all line segments of the text, which begins at x = 0.
pub(crate) fn segments(text: &str) -> Vec<Segment> {
    let mut x = 0.0;
    let mut segments = Vec::new();
    for character in text.chars() {
        for stroke in glyph(character).1.split(';') {
            let points = flatten(stroke);
            let moved = points.windows(2).map(|p| [(p[0].0 + x, p[0].1), (p[1].0 + x, p[1].1)]);
            segments.extend(moved);
        }
        x += advance(character) + GAP;
    }
    segments
}

/// Breaks the text into at most `max_lines` lines no wider than `max_width` (font units). Truncated text ends in an
/// ellipsis.
pub(crate) fn wrap(text: &str, max_width: f32, max_lines: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace().flat_map(|word| pieces(word, max_width)) {
        let longer = if line.is_empty() { word.clone() } else { format!("{line} {word}") };
        if width(&longer) <= max_width {
            line = longer;
        } else if lines.len() + 1 < max_lines {
            lines.push(std::mem::replace(&mut line, word));
        } else {
            line = ellipsised(&longer, max_width);
            break;
        }
    }
    lines.push(line);
    lines
}

/// Splits a word that is wider than a line.
fn pieces(word: &str, max_width: f32) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for character in word.chars() {
        let piece = pieces.last_mut().expect("there is always a piece");
        piece.push(character);
        if width(piece) > max_width && piece.chars().count() > 1 {
            piece.pop();
            pieces.push(character.to_string());
        }
    }
    pieces
}

fn ellipsised(text: &str, max_width: f32) -> String {
    let mut kept: String = text.to_owned();
    while !kept.is_empty() && width(&format!("{kept}...")) > max_width {
        kept.pop();
    }
    format!("{}...", kept.trim_end())
}

fn advance(character: char) -> f32 {
    if character == ' ' { BLANK } else { glyph(character).0 }
}

fn glyph(character: char) -> (f32, &'static str) {
    if character == ' ' {
        return (BLANK, "");
    }
    let folded = FOLDED.iter().find(|(marked, _)| marked.contains(character)).map_or(character, |(_, plain)| *plain);
    GLYPHS.iter().find(|(known, ..)| *known == folded).map_or(UNKNOWN, |(_, width, strokes)| (*width, *strokes))
}

/// Returns the points of one stroke, with curves approximated by short lines.
fn flatten(stroke: &str) -> Vec<(f32, f32)> {
    let (kind, rest) = stroke.split_once(' ').unwrap_or(("", ""));
    let point = |text: &str| {
        let (x, y) = text.split_once(',')?;
        Some((x.parse().ok()?, y.parse().ok()?))
    };
    let points: Vec<(f32, f32)> = rest.split(' ').filter_map(point).collect();
    match (kind, points.as_slice()) {
        ("e", [center, radii]) => ellipse(*center, *radii),
        ("s", points) => smooth(points),
        _ => points,
    }
}

fn ellipse(center: (f32, f32), radii: (f32, f32)) -> Vec<(f32, f32)> {
    let steps = 4 * PIECES;
    let angle = |step: usize| step as f32 / steps as f32 * std::f32::consts::TAU;
    (0..=steps).map(|s| (center.0 + radii.0 * angle(s).cos(), center.1 + radii.1 * angle(s).sin())).collect()
}

/// Returns a Catmull-Rom curve through the points.
fn smooth(points: &[(f32, f32)]) -> Vec<(f32, f32)> {
    let Some(last) = points.len().checked_sub(1) else { return Vec::new() };
    let mut curve = vec![points[0]];
    for i in 0..last {
        let (before, from, to, after) =
            (points[i.saturating_sub(1)], points[i], points[i + 1], points[(i + 2).min(last)]);
        for piece in 1..=PIECES {
            let t = piece as f32 / PIECES as f32;
            let blend = |p: f32, a: f32, b: f32, n: f32| {
                let (square, cube) = (3.0 * a - p - 3.0 * b + n, 2.0 * p - 5.0 * a + 4.0 * b - n);
                a + 0.5 * t * (b - p + t * (cube + t * square))
            };
            curve.push((blend(before.0, from.0, to.0, after.0), blend(before.1, from.1, to.1, after.1)));
        }
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_ascii_character_has_a_glyph_inside_its_width() {
        for character in '!'..='~' {
            let (width, strokes) = glyph(character);
            assert_ne!(strokes, UNKNOWN.1, "{character}");
            let points: Vec<_> = strokes.split(';').flat_map(flatten).collect();
            assert!(points.len() >= 2, "{character}");
            for (x, y) in points {
                assert!((-1.6..=width + 0.6).contains(&x) && (-2.0..=18.6).contains(&y), "{character}: {x},{y}");
            }
        }
    }

    #[test]
    fn all_points_of_the_table_are_numbers() {
        for (character, _, strokes) in GLYPHS {
            for stroke in strokes.split(';') {
                let (kind, points) = stroke.split_once(' ').unwrap();
                let count = points.split(' ').count();
                let expected = if kind == "s" { (count - 1) * PIECES + 1 } else { count };
                assert_eq!(flatten(stroke).len(), if kind == "e" { 4 * PIECES + 1 } else { expected }, "{character}");
            }
        }
    }

    #[test]
    fn marks_are_dropped_and_unknown_writing_becomes_boxes() {
        assert_eq!(segments("é"), segments("e"));
        assert_eq!(segments("猫").len(), 4);
        assert!(segments(" ").is_empty());
    }

    #[test]
    fn lines_fit_and_long_text_ends_in_an_ellipsis() {
        let text = "a small robot that waters the tulips on a balcony in the evening light";
        let lines = wrap(text, 200.0, 9);
        assert!(lines.len() > 2 && lines.iter().all(|line| width(line) <= 200.0), "{lines:?}");
        assert_eq!(lines.join(" "), text);
        let cut = wrap(text, 200.0, 2);
        assert_eq!(cut.len(), 2);
        assert!(cut[1].ends_with("...") && width(&cut[1]) <= 200.0, "{cut:?}");
    }

    #[test]
    fn a_word_longer_than_a_line_is_cut() {
        let lines = wrap(&"w".repeat(100), 100.0, 3);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| width(line) <= 100.0), "{lines:?}");
        assert_eq!(wrap(" \n ", 100.0, 3), [""]);
    }
}

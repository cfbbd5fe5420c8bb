//! The contact sheet of a batch: one card per job with the subject, the results and the prompt.

use image::RgbImage;

use crate::canvas::{Area, Canvas, Colour};
use crate::font;
use echogen_imaging::{Filter, resize};

/// One job on the sheet.
#[derive(Clone, Debug)]
pub struct SheetRow<'a> {
    /// The subject as given in the job.
    pub subject: &'a RgbImage,
    /// Text below the pictures, usually the prompt. Long text is truncated.
    pub caption: String,
    /// The results, in order.
    pub results: &'a [RgbImage],
}

/// Longest side of a thumbnail in pixels.
pub const THUMBNAIL: u32 = 256;
/// Maximum number of jobs shown; the sheet states how many more there are.
pub const MAX_CARDS: usize = 40;
/// Maximum number of results shown per job.
pub const MAX_RESULTS: usize = 4;
/// Maximum total width of cards in one row, in pixels.
const PAGE_WIDTH: u32 = 1240;
const MARGIN: u32 = 32;
const CARD_GAP: u32 = 20;
const PADDING: u32 = 16;
const PICTURE_GAP: u32 = 10;
/// Gap between subject and results, which holds the arrow, in pixels.
const ARROW_GAP: u32 = 36;
const CAPTION_CAPITALS: f32 = 11.0;
const CAPTION_LINE: u32 = 21;
const CAPTION_LINES: usize = 3;
const HEADER: u32 = 52;
const FOOTER: u32 = 34;

const PAPER: Colour = [241, 238, 232];
const CARD: Colour = [255, 255, 255];
const EDGE: Colour = [222, 217, 208];
const WELL: Colour = [246, 244, 240];
const INK: Colour = [52, 49, 46];
const SOFT_INK: Colour = [140, 133, 123];
const ACCENT: Colour = [214, 96, 54];

/// Draws the sheet: a heading and cards of equal size, several per row where they fit.
///
/// The size is bounded: at most 40 jobs and four results of each are shown (the rest is stated as a number), pictures
/// are scaled to 256 pixels and captions truncated after three lines, so no sheet exceeds about 1,430 x 16,000 pixels.
pub fn contact_sheet(rows: &[SheetRow<'_>]) -> RgbImage {
    let pictures = rows.iter().map(|row| row.results.len()).sum();
    let heading = format!("{} \u{b7} {}", counted(rows.len(), "job"), counted(pictures, "picture"));
    contact_sheet_headed(rows, &heading)
}

/// Draws a sheet with a heading of the caller's, such as one page of several.
pub fn contact_sheet_headed(rows: &[SheetRow<'_>], heading: &str) -> RgbImage {
    let shown = &rows[..rows.len().min(MAX_CARDS)];
    let layout = Layout::of(shown);
    let footer = if rows.len() > shown.len() { FOOTER } else { 0 };
    let lines = (shown.len() as u32).div_ceil(layout.across);
    let width = 2 * MARGIN + layout.across * (layout.card_width + CARD_GAP) - CARD_GAP;
    let bottom = MARGIN + HEADER + lines * (layout.card_height + CARD_GAP);
    let mut canvas = Canvas::new(width, bottom + footer + MARGIN - CARD_GAP, PAPER);
    draw_heading(&mut canvas, heading, width);
    for (index, row) in shown.iter().enumerate() {
        let (line, column) = (index as u32 / layout.across, index as u32 % layout.across);
        let x = MARGIN + column * (layout.card_width + CARD_GAP);
        layout.draw_card(&mut canvas, row, x, MARGIN + HEADER + line * (layout.card_height + CARD_GAP));
    }
    if footer > 0 {
        canvas.text(&format!("and {} more", rows.len() - shown.len()), MARGIN, bottom + 4, 12.0, SOFT_INK);
    }
    canvas.into_image()
}

fn draw_heading(canvas: &mut Canvas, heading: &str, width: u32) {
    canvas.text("EchoGen", MARGIN, MARGIN + 4, 20.0, INK);
    let scale = 12.0 / font::CAPITAL_HEIGHT;
    let left = (width - MARGIN).saturating_sub((font::width(heading) * scale) as u32);
    canvas.text(heading, left, MARGIN + 12, 12.0, SOFT_INK);
}

/// Returns a number with its noun, in the plural where there is not one.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Sizes that all cards share, in pixels.
struct Layout {
    across: u32,
    card_width: u32,
    card_height: u32,
    caption_lines: usize,
}

impl Layout {
    fn of(rows: &[SheetRow<'_>]) -> Self {
        let results = rows.iter().map(|row| row.results.len()).max().unwrap_or(1).clamp(1, MAX_RESULTS) as u32;
        let pictures = THUMBNAIL + ARROW_GAP + results * (THUMBNAIL + PICTURE_GAP) - PICTURE_GAP;
        let card_width = pictures + 2 * PADDING;
        let across = ((PAGE_WIDTH + CARD_GAP) / (card_width + CARD_GAP)).clamp(1, rows.len().max(1) as u32);
        let lines = rows.iter().map(|row| caption_lines(row, card_width).len()).max().unwrap_or(1);
        let card_height = THUMBNAIL + 2 * PADDING + 4 + lines as u32 * CAPTION_LINE;
        Self { across, card_width, card_height, caption_lines: lines }
    }

    fn draw_card(&self, canvas: &mut Canvas, row: &SheetRow<'_>, x: u32, y: u32) {
        let card = Area { x, y, width: self.card_width, height: self.card_height };
        canvas.fill(card, 14.0, EDGE);
        canvas.fill(Area { x: x + 1, y: y + 1, width: card.width - 2, height: card.height - 2 }, 13.0, CARD);
        let (left, top) = (x + PADDING, y + PADDING);
        draw_thumbnail(canvas, row.subject, left, top);
        draw_arrow(canvas, left + THUMBNAIL + ARROW_GAP / 2, top + THUMBNAIL / 2);
        let first = left + THUMBNAIL + ARROW_GAP;
        for (index, result) in row.results.iter().take(MAX_RESULTS).enumerate() {
            draw_thumbnail(canvas, result, first + index as u32 * (THUMBNAIL + PICTURE_GAP), top);
        }
        draw_count_of_hidden(canvas, row, x + card.width - PADDING, top);
        let caption_top = top + THUMBNAIL + 15;
        for (index, line) in caption_lines(row, self.card_width).iter().take(self.caption_lines).enumerate() {
            canvas.text(line, left, caption_top + index as u32 * CAPTION_LINE, CAPTION_CAPITALS, INK);
        }
    }
}

fn caption_lines(row: &SheetRow<'_>, card_width: u32) -> Vec<String> {
    let scale = CAPTION_CAPITALS / font::CAPITAL_HEIGHT;
    // Far more than three lines can hold; bounds the cost of a very long caption.
    let caption: String = row.caption.chars().take(1_000).collect();
    font::wrap(&caption, (card_width - 2 * PADDING) as f32 / scale, CAPTION_LINES)
}

/// Draws the picture centred in its square field.
fn draw_thumbnail(canvas: &mut Canvas, picture: &RgbImage, x: u32, y: u32) {
    // A thin frame, so that a white picture has a visible edge on the white card.
    canvas.fill(Area { x: x - 1, y: y - 1, width: THUMBNAIL + 2, height: THUMBNAIL + 2 }, 9.0, EDGE);
    canvas.fill(Area { x, y, width: THUMBNAIL, height: THUMBNAIL }, 8.0, WELL);
    let (width, height) = picture.dimensions();
    let scale = f64::from(THUMBNAIL) / f64::from(width.max(height).max(1));
    let fitted = |side: u32| ((f64::from(side) * scale).round() as u32).clamp(1, THUMBNAIL);
    // A picture without pixels leaves its field empty.
    if let Ok(thumbnail) = resize(picture, fitted(height), fitted(width), Filter::Lanczos) {
        let (left, top) = (x + (THUMBNAIL - thumbnail.width()) / 2, y + (THUMBNAIL - thumbnail.height()) / 2);
        canvas.paste(&thumbnail, left, top, 8.0);
    }
}

fn draw_arrow(canvas: &mut Canvas, x: u32, y: u32) {
    let (x, y) = (x as f32, y as f32);
    canvas.strokes(
        &[[(x - 8.0, y), (x + 8.0, y)], [(x + 2.0, y - 6.0), (x + 8.0, y)], [(x + 2.0, y + 6.0), (x + 8.0, y)]],
        1.3,
        ACCENT,
    );
}

/// Draws a small label in the last picture's corner that states how many more results there are.
fn draw_count_of_hidden(canvas: &mut Canvas, row: &SheetRow<'_>, right: u32, top: u32) {
    let hidden = row.results.len().saturating_sub(MAX_RESULTS);
    if hidden == 0 {
        return;
    }
    let text = format!("+{hidden}");
    let width = (font::width(&text) * 12.0 / font::CAPITAL_HEIGHT) as u32 + 18;
    canvas.fill(Area { x: right - width - 8, y: top + 8, width, height: 26 }, 13.0, ACCENT);
    canvas.text(&text, right - width + 1, top + 15, 12.0, CARD);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: u32, height: u32, colour: Colour) -> RgbImage {
        RgbImage::from_pixel(width, height, image::Rgb(colour))
    }

    #[test]
    fn subject_stands_left_of_the_results() {
        let (subject, results) = (plain(64, 64, [250, 0, 0]), [plain(300, 300, [0, 0, 250])]);
        let sheet =
            contact_sheet(&[SheetRow { subject: &subject, caption: "a red square".to_owned(), results: &results }]);
        let x = MARGIN + PADDING + THUMBNAIL / 2;
        let y = MARGIN + HEADER + PADDING + THUMBNAIL / 2;
        assert_eq!(sheet.get_pixel(x, y).0, [250, 0, 0]);
        assert_eq!(sheet.get_pixel(x + THUMBNAIL + ARROW_GAP, y).0, [0, 0, 250]);
    }

    #[test]
    fn a_caption_leaves_ink() {
        let (subject, results) = (plain(8, 8, [9, 9, 9]), [plain(8, 8, [9, 9, 9])]);
        let sheet = |caption: &str| {
            contact_sheet(&[SheetRow { subject: &subject, caption: caption.to_owned(), results: &results }])
        };
        let below = |sheet: &RgbImage| {
            let top = MARGIN + HEADER + PADDING + THUMBNAIL + 4;
            sheet.enumerate_pixels().filter(|(_, y, p)| *y > top && p.0[0] < 100).count()
        };
        assert_eq!(below(&sheet("")), 0);
        assert!(below(&sheet("a mug on a table")) > 100);
    }

    #[test]
    fn thousands_of_jobs_and_odd_pictures_stay_bounded() {
        let (subject, results) = (plain(1, 5_000, [1, 2, 3]), vec![plain(3, 1, [4, 5, 6]); 9]);
        let caption = "long ".repeat(10_000);
        let row = SheetRow { subject: &subject, caption, results: &results };
        let sheet = contact_sheet(&vec![row; 1_000]);
        assert!(sheet.width() <= 1_500 && sheet.height() <= 16_100, "{:?}", sheet.dimensions());
    }

    #[test]
    fn no_jobs_and_empty_pictures_are_no_trouble() {
        contact_sheet(&[]);
        let empty = RgbImage::new(0, 0);
        let results = [RgbImage::new(0, 7)];
        contact_sheet(&[
            SheetRow { subject: &empty, caption: String::new(), results: &results },
            SheetRow { subject: &empty, caption: String::new(), results: &[] },
        ]);
    }
}

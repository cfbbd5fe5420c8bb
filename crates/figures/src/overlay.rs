//! An overlay that marks the found subject on its picture.

use echogen_imaging::{ImageError, PixelBox, SubjectMask};
use image::RgbImage;

use crate::{
    canvas::{Area, Canvas, Colour},
    font,
};

const ACCENT: Colour = [214, 96, 54];
const PAPER: Colour = [255, 255, 255];

/// Returns a copy of the picture with a box or a mask's outline, and a label, drawn on it.
///
/// # Errors
///
/// If the box has no area or leaves the picture.
pub fn overlay(
    picture: &RgbImage,
    area: PixelBox,
    mask: Option<&SubjectMask>,
    label: &str,
) -> Result<RgbImage, ImageError> {
    let (width, height) = picture.dimensions();
    area.check(width, height)?;
    let thickness = (width.min(height) as f32 / 250.0).clamp(1.0, 8.0);
    let mut canvas = Canvas::of(picture.clone());
    if let Some(mask) = mask {
        let edge = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).filter(|(x, y)| mask.is_edge(*x, *y));
        for (x, y) in edge {
            canvas.fill(Area { x, y, width: thickness.ceil() as u32, height: thickness.ceil() as u32 }, 0.0, ACCENT);
        }
    }
    let inset = thickness / 2.0;
    let (left, top) = (area.left as f32 + inset, area.top as f32 + inset);
    let (right, bottom) = (area.right as f32 - inset, area.bottom as f32 - inset);
    let corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)];
    let lines: Vec<font::Segment> = corners.windows(2).map(|pair| [pair[0], pair[1]]).collect();
    canvas.strokes(&lines, inset, ACCENT);
    draw_label(&mut canvas, (width, height), area, label);
    Ok(canvas.into_image())
}

/// Draws the label on the box's upper edge, or below that edge where there is no space above; clipped to the picture's
/// width.
fn draw_label(canvas: &mut Canvas, (width, height): (u32, u32), area: PixelBox, label: &str) {
    let capitals = (width.min(height) as f32 / 28.0).clamp(8.0, 40.0);
    let scale = capitals / font::CAPITAL_HEIGHT;
    let padding = (capitals / 2.0) as u32;
    let room = width.saturating_sub(2 * padding) as f32 / scale;
    let label: String = label.chars().take(200).collect();
    let Some(line) = font::wrap(&label, room, 1).into_iter().next().filter(|line| !line.is_empty()) else { return };
    let (label_width, label_height) = ((font::width(&line) * scale) as u32 + 2 * padding, (capitals * 2.0) as u32);
    let x = area.left.min(width.saturating_sub(label_width));
    let y = area.top.checked_sub(label_height).unwrap_or(area.top).min(height.saturating_sub(label_height));
    canvas.fill(Area { x, y, width: label_width, height: label_height }, capitals / 4.0, ACCENT);
    canvas.text(&line, x + padding, y + padding, capitals, PAPER);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> RgbImage {
        RgbImage::from_pixel(200, 120, image::Rgb([10, 20, 30]))
    }

    #[test]
    fn the_box_is_framed_and_labelled() {
        let area = PixelBox { left: 40, top: 30, right: 160, bottom: 110 };
        let plain = overlay(&picture(), area, None, "").unwrap();
        assert_eq!(plain.get_pixel(40, 70).0, ACCENT);
        assert_eq!(plain.get_pixel(159, 70).0, ACCENT);
        assert_eq!(plain.get_pixel(100, 70).0, [10, 20, 30]);
        assert_eq!(plain.get_pixel(20, 70).0, [10, 20, 30]);
        let labelled = overlay(&picture(), area, None, "dog 0.87").unwrap();
        assert!(labelled.pixels().filter(|pixel| pixel.0 == PAPER).count() > 5);
    }

    #[test]
    fn an_outline_is_drawn() {
        let inside = (0..200 * 120).map(|at| (50..150).contains(&(at % 200)) && (40..80).contains(&(at / 200)));
        let mask = SubjectMask::new(200, 120, inside.collect()).unwrap();
        let area = PixelBox { left: 0, top: 0, right: 200, bottom: 120 };
        let drawn = overlay(&picture(), area, Some(&mask), "").unwrap();
        assert_eq!(drawn.get_pixel(50, 60).0, ACCENT);
        assert_eq!(drawn.get_pixel(100, 60).0, [10, 20, 30]);
    }

    #[test]
    fn tiny_and_thin_pictures_and_long_labels_are_no_trouble() {
        for (width, height) in [(1, 1), (1, 5_000), (5_000, 1)] {
            let picture = RgbImage::from_pixel(width, height, image::Rgb([9; 3]));
            let area = PixelBox { left: 0, top: 0, right: width, bottom: height };
            let drawn = overlay(&picture, area, None, &"long ".repeat(1_000)).unwrap();
            assert_eq!(drawn.dimensions(), (width, height));
        }
        assert!(overlay(&picture(), PixelBox { left: 0, top: 0, right: 201, bottom: 1 }, None, "").is_err());
    }
}

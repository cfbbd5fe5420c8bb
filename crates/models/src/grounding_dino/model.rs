//! The complete GroundingDINO model.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{
    attention::{additive_mask, contrastive_logits, sine_features},
    bert::Bert,
    config::GroundingDinoConfig,
    decoder::{Decoder, Mlp, Scene, moved, sigmoid},
    encoder::{Caption, Encoder},
    levels::Levels,
    neck::{Neck, PixelMask, valid_size},
    phrases::PhraseBlocks,
    swin::Swin,
};
use crate::layers::{linear::Linear, norm::LayerNorm};

/// Side of a proposal box on the finest level, relative to the picture; doubled on every further level.
const PROPOSAL_SIZE: f32 = 0.05;

/// Cells whose proposal box has a coordinate closer than this to 0 or 1 are skipped.
const PROPOSAL_MARGIN: f32 = 0.01;

/// A batch of pictures and captions.
#[derive(Debug, Clone)]
pub struct GroundingDinoInput<'a> {
    /// (batch, 3, height, width), normalised.
    pub pixel_values: &'a Tensor,
    /// Which pixels belong to the pictures.
    pub pixel_mask: &'a PixelMask,
    /// (batch, tokens), u32 or i64.
    pub input_ids: &'a Tensor,
    /// (batch, tokens), 0 for padding; `None` if there is none.
    pub attention_mask: Option<&'a Tensor>,
    /// (batch, tokens): segment ids; `None` for all 0.
    pub token_type_ids: Option<&'a Tensor>,
}

/// Predicted boxes and their logits for each token.
#[derive(Debug, Clone)]
pub struct GroundingDinoOutput {
    /// (batch, queries, max_text_len); minus infinity for padding tokens and beyond the caption.
    pub logits: Tensor,
    /// (batch, queries, 4): centre x, centre y, width, height relative to the padded picture.
    pub pred_boxes: Tensor,
}

/// The cells selected as queries.
struct Chosen {
    /// (batch, queries)
    indices: Vec<u32>,
    /// (batch, queries)
    scores: Vec<f32>,
    /// (batch, queries, 4)
    boxes: Vec<f32>,
}

/// The detector network. Cloning shares the weights.
#[derive(Debug, Clone)]
pub struct GroundingDino {
    backbone: Swin,
    neck: Neck,
    text_backbone: Bert,
    text_projection: Linear,
    encoder: Encoder,
    enc_output: Linear,
    enc_output_norm: LayerNorm,
    encoder_output_bbox_embed: Mlp,
    /// (queries, d_model): the initial content of every query, despite the name in the checkpoint.
    query_position_embeddings: Tensor,
    decoder: Decoder,
    /// One box head shared by all blocks, or one per block.
    bbox_embed: Vec<Mlp>,
    config: GroundingDinoConfig,
    device: Device,
}

impl GroundingDino {
    /// Builds the network; float32 only.
    pub fn new(vb: VarBuilder, config: &GroundingDinoConfig) -> Result<Self> {
        config.check()?;
        if vb.dtype() != DType::F32 {
            bail!("a detector is computed in float32, not {:?}", vb.dtype());
        }
        let (model, width) = (vb.pp("model"), config.d_model);
        let box_head = [width, width, width, 4];
        let heads = if config.decoder_bbox_embed_share { 1 } else { config.decoder_layers };
        // Some files store the shared box head under the decoder only.
        let bbox_embed = match vb.contains_tensor("bbox_embed.0.layers.0.weight") {
            false if vb.contains_tensor("model.decoder.bbox_embed.0.layers.0.weight") => model.pp("decoder.bbox_embed"),
            _ => vb.pp("bbox_embed"),
        };
        Ok(Self {
            backbone: Swin::new(model.pp("backbone.conv_encoder.model"), &config.backbone_config)?,
            neck: Neck::new(model.clone(), config)?,
            text_backbone: Bert::new(model.pp("text_backbone"), &config.text_config)?,
            text_projection: Linear::new(model.pp("text_projection"), config.text_config.hidden_size, width)?,
            encoder: Encoder::new(model.pp("encoder"), config)?,
            enc_output: Linear::new(model.pp("enc_output"), width, width)?,
            enc_output_norm: LayerNorm::new(model.pp("enc_output_norm"), width, config.layer_norm_eps)?,
            encoder_output_bbox_embed: Mlp::new(model.pp("encoder_output_bbox_embed"), &box_head)?,
            query_position_embeddings: model.get((config.num_queries, width), "query_position_embeddings.weight")?,
            decoder: Decoder::new(model.pp("decoder"), config)?,
            bbox_embed: (0..heads).map(|n| Mlp::new(bbox_embed.pp(n), &box_head)).collect::<Result<_>>()?,
            config: config.clone(),
            device: vb.device().clone(),
        })
    }

    /// Returns whether a tensor of a published checkpoint is unused: buffers derived from the configuration, copies of
    /// the shared box head, and output layers of the backbones that a detector does not need.
    pub fn is_ignored(name: &str) -> bool {
        let copy_of_head = name.strip_prefix("model.decoder.").unwrap_or(name).starts_with("bbox_embed.");
        copy_of_head
            || name.ends_with(".relative_position_index")
            || name.ends_with(".position_ids")
            || name.ends_with(".num_batches_tracked")
            || name.starts_with("model.text_backbone.pooler.")
            || ["model.backbone.conv_encoder.model.layernorm.", "model.backbone.conv_encoder.model.swin.layernorm."]
                .iter()
                .any(|unused| name.starts_with(unused))
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &GroundingDinoConfig {
        &self.config
    }

    /// Returns the device of the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Predicts boxes.
    pub fn forward(&self, input: &GroundingDinoInput<'_>) -> Result<GroundingDinoOutput> {
        self.forward_visiting(input, &mut |_, _| Ok(()))
    }

    /// As [`forward`](Self::forward). `visit` is called with intermediate results by name, as `FIXTURES.md` lists them
    /// for the parity fixtures.
    pub fn forward_visiting(
        &self,
        input: &GroundingDinoInput<'_>,
        visit: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<GroundingDinoOutput> {
        let (text, caption) = self.read_caption(input, visit)?;
        if input.pixel_values.dim(0)? != caption.batch {
            bail!("{} pictures do not go with {} captions", input.pixel_values.dim(0)?, caption.batch);
        }
        let levels = self.look(input, visit)?;
        let (batch, cells, width) = (caption.batch, levels.cells(), self.config.d_model);
        let (vision, text) = self.encoder.forward(&levels, text, &caption, &mut |index, vision, text| {
            visit(&format!("enc_layer{}.vision", index + 1), &vision.reshape((batch, cells, width))?)?;
            visit(&format!("enc_layer{}.text", index + 1), &text.reshape((batch, caption.tokens, width))?)
        })?;
        visit("encoder_last_hidden_state_vision", &vision.reshape((batch, cells, width))?)?;
        visit("encoder_last_hidden_state_text", &text.reshape((batch, caption.tokens, width))?)?;
        let chosen = self.choose(&vision, &text, &levels, &caption, visit)?;
        let count = chosen.indices.len() / batch;
        self.show_chosen(&chosen, (batch, count), visit)?;
        let queries = self.query_position_embeddings.narrow(0, 0, count)?.unsqueeze(0)?;
        let queries = queries.repeat((batch, 1, 1))?.flatten_to(1)?;
        let scene = Scene::new(&levels, &vision, &text, &caption)?;
        let head = |block: usize| self.bbox_embed[block.min(self.bbox_embed.len() - 1)].clone();
        let decoded = self.decoder.forward(queries, chosen.boxes, &scene, &head)?;
        visit("last_hidden_state", &decoded.hidden.reshape((batch, count, width))?)?;
        self.show_references(&decoded.references, (batch, count), visit)?;
        let last = head(self.config.decoder_layers.saturating_sub(1)).numbers(&decoded.hidden)?;
        let boxes = moved(&decoded.last_references, &last);
        let logits = contrastive_logits(&decoded.hidden, &text, batch, &caption.is_real)?;
        Ok(GroundingDinoOutput {
            logits: self.widened(&logits)?,
            pred_boxes: Tensor::from_vec(boxes, (batch, count, 4), &self.device)?,
        })
    }

    /// Encodes the caption's tokens in the encoder's width, (batch · tokens, d_model), with their masks and positions.
    fn read_caption(
        &self,
        input: &GroundingDinoInput<'_>,
        visit: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<(Tensor, Caption)> {
        let (batch, given) = input.input_ids.dims2()?;
        let tokens = given.min(self.config.max_text_len);
        if tokens == 0 {
            bail!("a caption needs at least one token");
        }
        let ids: Vec<Vec<u32>> = input.input_ids.to_dtype(DType::U32)?.to_device(&Device::Cpu)?.to_vec2()?;
        let (mut mask, mut positions) = (Vec::new(), Vec::new());
        for ids in &ids {
            // Truncated tokens still delimit the phrases before them, as in the reference.
            let blocks = PhraseBlocks::new(ids);
            mask.extend((0..tokens).flat_map(|row| blocks.mask[row * given..][..tokens].to_vec()));
            positions.extend_from_slice(&blocks.position_ids[..tokens]);
        }
        let sines: Vec<f32> = positions.iter().map(|place| *place as f32).collect();
        let sines = sine_features(&sines, 1, self.config.d_model, 10_000.0);
        let caption = Caption {
            is_real: self.real_tokens(input, tokens)?,
            phrases: additive_mask(&mask, &[batch, 1, tokens, tokens], &self.device)?,
            positions: Tensor::from_vec(sines, (batch * tokens, self.config.d_model), &self.device)?,
            batch,
            tokens,
        };
        let cut = |ids: &Tensor| ids.narrow(1, 0, tokens)?.contiguous()?.to_device(&self.device);
        let segments = input.token_type_ids.map_or_else(|| input.input_ids.zeros_like(), |ids| Ok(ids.clone()))?;
        let positions = Tensor::from_vec(positions, (batch, tokens), &self.device)?;
        let hidden =
            self.text_backbone.forward(&cut(input.input_ids)?, &cut(&segments)?, &positions, &caption.phrases)?;
        let text = self.text_projection.forward(&hidden)?;
        let mask: Vec<u8> = mask.into_iter().map(u8::from).collect();
        visit("text_self_attention_mask", &Tensor::from_vec(mask, (batch, tokens, tokens), &Device::Cpu)?)?;
        visit("text_position_ids", &positions)?;
        visit("bert_last_hidden_state", &hidden.reshape((batch, tokens, ()))?)?;
        visit("text_features", &text.reshape((batch, tokens, ()))?)?;
        Ok((text, caption))
    }

    fn real_tokens(&self, input: &GroundingDinoInput<'_>, tokens: usize) -> Result<Vec<bool>> {
        let Some(mask) = input.attention_mask else { return Ok(vec![true; input.input_ids.dim(0)? * tokens]) };
        if mask.dims() != input.input_ids.dims() {
            bail!("attention mask has shape {:?}, token ids {:?}", mask.dims(), input.input_ids.dims());
        }
        let mask = mask.narrow(1, 0, tokens)?.to_device(&Device::Cpu)?.to_dtype(DType::U8)?;
        Ok(mask.flatten_all()?.to_vec1::<u8>()?.into_iter().map(|real| real != 0).collect())
    }

    fn look(
        &self,
        input: &GroundingDinoInput<'_>,
        visit: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<Levels> {
        let maps = self.backbone.forward(&input.pixel_values.to_device(&self.device)?.to_dtype(DType::F32)?)?;
        let levels = self.neck.forward(&maps, input.pixel_mask)?;
        let (batch, cells) = (levels.batch, levels.cells());
        let masks = levels.is_picture.iter().map(|is_picture| u8::from(*is_picture)).collect::<Vec<_>>();
        let masks = Tensor::from_vec(masks, (batch, cells), &Device::Cpu)?;
        let mut start = 0;
        for (index, map) in maps.iter().enumerate() {
            let shape = (batch, map.height, map.width, ());
            visit(&format!("backbone.{index}"), &map.cells.reshape(shape)?.permute((0, 3, 1, 2))?)?;
            let size = map.height * map.width;
            let mask = masks.narrow(1, start, size)?.reshape((batch, map.height, map.width))?;
            visit(&format!("backbone_mask.{index}"), &mask)?;
            start += size;
        }
        visit("encoder_in.vision", &levels.features.reshape((batch, cells, ()))?)?;
        visit("encoder_in.pos", &levels.positions.reshape((batch, cells, ()))?)?;
        let ratios: Vec<f32> = levels.valid_ratios.iter().flatten().flatten().copied().collect();
        visit("encoder_in.valid_ratios", &Tensor::from_vec(ratios, (batch, levels.shapes.len(), 2), &Device::Cpu)?)?;
        let shapes: Vec<u32> = levels.shapes.iter().flat_map(|(h, w)| [*h as u32, *w as u32]).collect();
        visit("encoder_in.spatial_shapes", &Tensor::from_vec(shapes, (levels.shapes.len(), 2), &Device::Cpu)?)?;
        Ok(levels)
    }

    /// Selects the cells with the highest token logits, in descending order, and their proposal boxes.
    fn choose(
        &self,
        vision: &Tensor,
        text: &Tensor,
        levels: &Levels,
        caption: &Caption,
        visit: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<Chosen> {
        let (batch, cells) = (levels.batch, levels.cells());
        let proposals = proposals(levels);
        let usable: Vec<bool> = proposals.iter().map(Option::is_some).collect();
        let vision = zero_unless(vision, &usable)?;
        let features = self.enc_output_norm.forward(&self.enc_output.forward(&vision)?)?;
        let scores = contrastive_logits(&features, text, batch, &caption.is_real)?.max(2)?; // (batch, cells)
        visit("enc_outputs_class_max", &scores)?;
        let count = self.config.num_queries.min(cells);
        let mut chosen = Chosen { indices: Vec::new(), scores: Vec::new(), boxes: Vec::new() };
        for (image, scores) in scores.to_device(&Device::Cpu)?.to_vec2::<f32>()?.into_iter().enumerate() {
            let mut order: Vec<u32> = (0..cells as u32).collect();
            let score = |cell: &u32| scores[*cell as usize];
            order.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
            order.truncate(count);
            let rows: Vec<u32> = order.iter().map(|cell| (image * cells) as u32 + cell).collect();
            let rows = Tensor::from_vec(rows, count, features.device())?;
            let by = self.encoder_output_bbox_embed.numbers(&features.index_select(&rows, 0)?)?;
            for (cell, by) in order.iter().zip(by.chunks_exact(4)) {
                let proposal = proposals[image * cells + *cell as usize].unwrap_or([f32::INFINITY; 4]);
                chosen.boxes.extend(proposal.iter().zip(by).map(|(place, by)| sigmoid(place + by)));
            }
            chosen.scores.extend(order.iter().map(score));
            chosen.indices.extend(order);
        }
        Ok(chosen)
    }

    fn show_chosen(
        &self,
        chosen: &Chosen,
        (batch, count): (usize, usize),
        visit: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<()> {
        visit("topk_indices", &Tensor::from_slice(&chosen.indices, (batch, count), &Device::Cpu)?)?;
        visit("topk_scores", &Tensor::from_slice(&chosen.scores, (batch, count), &Device::Cpu)?)?;
        visit("init_reference_points", &Tensor::from_slice(&chosen.boxes, (batch, count, 4), &Device::Cpu)?)
    }

    fn show_references(
        &self,
        references: &[Vec<f32>],
        (batch, count): (usize, usize),
        visit: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let blocks = references.iter().map(|boxes| Tensor::from_slice(boxes, (batch, count, 4), &Device::Cpu));
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        if blocks.is_empty() {
            return Ok(());
        }
        visit("intermediate_reference_points", &Tensor::stack(&blocks, 1)?)
    }

    /// Pads the logits with minus infinity beyond the caption.
    fn widened(&self, logits: &Tensor) -> Result<Tensor> {
        let (batch, queries, tokens) = logits.dims3()?;
        if tokens == self.config.max_text_len {
            return Ok(logits.clone());
        }
        let rest = Tensor::full(f32::NEG_INFINITY, (batch, queries, self.config.max_text_len - tokens), &self.device)?;
        Tensor::cat(&[logits, &rest], 2)
    }
}

/// Returns the proposal box of every cell before the sigmoid, (batch · cells); `None` for padding and for boxes at the
/// edge.
fn proposals(levels: &Levels) -> Vec<Option<[f32; 4]>> {
    let mut proposals = Vec::with_capacity(levels.batch * levels.cells());
    let mut rest = levels.is_picture.as_slice();
    for _ in 0..levels.batch {
        for (level, (height, width)) in levels.shapes.iter().enumerate() {
            let (mask, others) = rest.split_at(height * width);
            rest = others;
            let (columns, rows) = valid_size(mask, *width);
            let size = PROPOSAL_SIZE * 2f32.powi(level as i32);
            proposals.extend(mask.iter().enumerate().map(|(cell, is_picture)| {
                let x = ((cell % width) as f32 + 0.5) / columns as f32;
                let y = ((cell / width) as f32 + 0.5) / rows as f32;
                let place = [x, y, size, size];
                let inside = |number: &f32| *number > PROPOSAL_MARGIN && *number < 1.0 - PROPOSAL_MARGIN;
                (*is_picture && place.iter().all(inside)).then(|| place.map(|number| (number / (1.0 - number)).ln()))
            }));
        }
    }
    proposals
}

/// Returns `xs` (rows, width) with zeros in the rows where `keep` is false.
fn zero_unless(xs: &Tensor, keep: &[bool]) -> Result<Tensor> {
    let keep: Vec<f32> = keep.iter().map(|keep| f32::from(u8::from(*keep))).collect();
    xs.broadcast_mul(&Tensor::from_vec(keep, (xs.dim(0)?, 1), xs.device())?)
}

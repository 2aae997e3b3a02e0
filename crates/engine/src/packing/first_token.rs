//! What the first token pays the others in a layer's attention: of its probabilities nothing else is computed.

use super::attention::{Products, products, scores_behind, softmax_behind};
use super::layout::{Packed, TOKENS};
use super::operand::Source;
use super::{Packer, batch_size, seq_len};
use crate::graph::Node;
use crate::ops::fused::PackedFirstTokenAttention;

/// The packed value of a node that reads attention's probabilities, if they are a softmax of products under a padding mask.
pub(super) fn pack(packer: &mut Packer, node: &Node) -> Result<Packed, String> {
    let powers = node.input(0).ok_or("an input is missing")?;
    let softmax = softmax_behind(packer, powers).ok_or("what it reads is no softmax")?;
    let softmax_node = packer.pattern.node(softmax).ok_or("no softmax")?;
    let softmax_input = softmax_node.input(0).ok_or("an input is missing")?;
    let scores = scores_behind(packer, softmax_input)?;
    let Products { queries, keys, scale } = products(packer, &scores, softmax_input, powers)?;
    let [num_heads, head_dim] = queries.heads;
    let expected = [batch_size(), num_heads.into(), seq_len(), seq_len()];
    if packer.shape(powers) != Some(&expected) {
        return Err(format!("probabilities of shape {:?}", packer.shape(powers)));
    }
    if scores.window.is_some() || scores.bias.is_some() || queries.rotary.is_some() {
        return Err("attention depends on positions".to_owned());
    }
    if packer.attended.is_some() {
        return Err("not all tokens are attended to".to_owned());
    }
    let mut rows = |source: &Source| match packer.packed(source.value) {
        Ok((id, TOKENS)) => Ok(id),
        Ok((_, layout)) => Err(format!("queries or keys are {layout}")),
        Err(reason) => Err(reason.words),
    };
    let (query_rows, key_rows) = (rows(&queries.source)?, rows(&keys.source)?);
    let operator = PackedFirstTokenAttention {
        head_dim,
        scale,
        query_columns: queries.source.columns,
        key_columns: keys.source.columns,
    };
    let inputs = [query_rows, key_rows, packer.cu_seqlens];
    Ok((packer.packed.add_node(&node.name, operator, &inputs), TOKENS))
}

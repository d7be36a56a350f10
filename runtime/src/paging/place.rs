//! Where a program finds its weights when only the hot ones are in memory, one after another.

use lfm_graphs::id::Id;
use lfm_graphs::plan::memory::Paging;

use crate::exec::{Kind, MatrixAt, Program, VectorAt};

/// Moves the offsets of hot weights to where they are in memory, and tells steps with paged experts their layer. `None` if a
/// weight is neither hot nor an expert.
pub(super) fn relocate(program: &mut Program, paging: &Paging) -> Option<()> {
    let place = |offset: &mut usize| {
        let mut before = 0;
        for pages in &paging.hot_pages {
            if pages.contains(&(*offset as u64)) {
                *offset = before + (*offset as u64 - pages.start) as usize;
                return Some(());
            }
            before += (pages.end - pages.start) as usize;
        }
        None
    };
    let matrix = |at: &mut MatrixAt| place(&mut at.offset);
    let vector = |at: &mut VectorAt| place(&mut at.offset);
    // A step is a node, in the same order.
    for (index, step) in program.body.iter_mut().chain(&mut program.tail).enumerate() {
        match &mut step.kind {
            Kind::Embed { table, .. } => matrix(table)?,
            Kind::Norm { weight, .. } => vector(weight)?,
            Kind::Linear { w, bias, .. } => {
                matrix(w)?;
                bias.iter_mut().try_for_each(vector)?;
            }
            Kind::SwiGlu { gate, up, .. } => {
                matrix(gate)?;
                matrix(up)?;
            }
            Kind::ConvGate { kernel, bias, .. } => {
                matrix(kernel)?;
                bias.iter_mut().try_for_each(vector)?;
            }
            Kind::Moe(moe) => {
                matrix(&mut moe.router)?;
                moe.bias.iter_mut().try_for_each(vector)?;
                moe.paged = paging.layers.iter().position(|layer| layer.node.index() == index);
                if moe.paged.is_none() {
                    [&mut moe.gate, &mut moe.up, &mut moe.down].into_iter().try_for_each(matrix)?;
                }
            }
            Kind::Alias
            | Kind::RopeTable { .. }
            | Kind::Rope { .. }
            | Kind::Attention(_)
            | Kind::Add { .. }
            | Kind::LastRow { .. } => {}
        }
    }
    Some(())
}

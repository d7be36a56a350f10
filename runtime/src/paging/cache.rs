//! Slots of experts: which expert is where, what is being read, what goes.
//!
//! A layer runs in *waves*. [`Cache::begin`] says which experts it needs; those that are in memory are the first wave, and
//! the others are read meanwhile, into slots of experts that are not needed now. Each wave is what has arrived since. An
//! expert that has been computed may go, so a layer can need more experts than there are slots. Which wave an expert
//! belongs to has no influence on results: each is computed by itself, and sums are made in ascending order at the end.
//!
//! In a prompt, whose later layers will need nearly all of their experts, these are read ahead into slots of experts that
//! will be needed later still, and as many of each layer are kept.

use std::io;
use std::ops::Range;

use memmap2::MmapMut;

use super::policy::Policy;
use super::readers::{Read, Readers};
use super::source::Source;
use super::{PAGE, Stats};

/// No slot, or no expert.
const NONE: u32 = u32::MAX;

/// Most experts that are read ahead at once.
const AHEAD: usize = 32;

/// An expert that a pass uses with at least this probability is read ahead.
const LIKELY: f32 = 0.95;

/// The experts of one layer in the weights.
#[derive(Clone, Debug)]
pub(super) struct LayerAt {
    /// First byte of gate, up and down of expert 0, and the bytes to the next expert.
    pub(super) matrices: [(u64, u64); 3],
    pub(super) count: usize,
    /// Number of expert 0, through all layers.
    pub(super) first: usize,
    /// Which slots are of the right size.
    pub(super) slots: Range<usize>,
}

/// Room for an expert.
#[derive(Debug)]
struct Slot {
    /// Gate, up, down; away while they are read into.
    buffers: [Option<MmapMut>; 3],
    fresh: bool,
    /// The number of the expert, and its layer.
    expert: u32,
    layer: usize,
    /// Matrices that are being read.
    reading: u8,
    /// Why one of them could not be read.
    fault: Option<io::Error>,
}

/// The cache, and what the layer that is running needs of it.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<LayerAt>,
    slots: Vec<Slot>,
    /// The slot of each expert.
    place: Vec<u32>,
    policy: Policy,
    readers: Readers,
    /// Slots that are being read into, and those of them that are read ahead.
    reading: usize,
    ahead: usize,
    now: usize,
    /// Whether the experts of later layers can be told.
    all: bool,
    /// By expert of the running layer: needed and not computed; part of the wave.
    needed: Vec<bool>,
    wave: Vec<bool>,
    /// Experts of each layer that have a slot: counted anew for each choice of one that goes.
    held: Vec<u32>,
    pub(super) stats: Stats,
}

impl Cache {
    /// An empty cache. `sizes` are the slots: pages of gate, up and down.
    pub(super) fn new(
        layers: Vec<LayerAt>,
        sizes: &[[usize; 3]],
        shares: Vec<f32>,
        readers: Readers,
    ) -> io::Result<Cache> {
        let slots = sizes.iter().map(|parts| {
            let [gate, up, down] = parts.map(|bytes| MmapMut::map_anon(bytes.max(PAGE)));
            let buffers = [Some(gate?), Some(up?), Some(down?)];
            Ok(Slot { buffers, fresh: true, expert: NONE, layer: 0, reading: 0, fault: None })
        });
        let most = layers.iter().map(|layer| layer.count).max().unwrap_or(0);
        Ok(Cache {
            slots: slots.collect::<io::Result<_>>()?,
            place: vec![NONE; shares.len()],
            policy: Policy::new(layers.len(), shares),
            held: vec![0; layers.len()],
            layers,
            readers,
            reading: 0,
            ahead: 0,
            now: 0,
            all: false,
            needed: vec![false; most],
            wave: vec![false; most],
            stats: Stats::default(),
        })
    }

    /// What is read.
    pub(super) fn source(&self) -> &Source {
        self.readers.source()
    }

    /// Begins a layer in a pass of `rows` tokens; `tokens` of them choose an expert.
    pub(crate) fn begin(&mut self, layer: usize, rows: usize, tokens: impl Fn(usize) -> usize) {
        self.needed.fill(false);
        self.wave.fill(false);
        while let Some(read) = self.readers.take(false) {
            self.arrive(read);
        }
        self.now = layer;
        self.policy.begin(rows);
        let (first, count) = (self.layers[layer].first, self.layers[layer].count);
        let mut choices = 0;
        for expert in 0..count {
            let tokens = tokens(expert);
            self.policy.observe(first + expert, tokens);
            choices += tokens;
            self.needed[expert] = tokens > 0;
            if tokens == 0 {
                continue;
            }
            let slot = self.place[first + expert];
            match self.slots.get(slot as usize) {
                Some(slot) if slot.reading == 0 => self.stats.hits += 1,
                Some(_) => {
                    self.stats.misses += 1;
                    self.readers.hurry(slot as usize);
                }
                None => self.stats.misses += 1,
            }
        }
        self.all = choices >= 2 * count;
    }

    /// Gathers the next wave, waiting for reads if nothing else is left. `false` when all are computed.
    pub(crate) fn next_wave(&mut self) -> io::Result<bool> {
        let LayerAt { first, count, .. } = self.layers[self.now];
        let mut wait = false;
        loop {
            while let Some(read) = self.readers.take(wait) {
                self.arrive(read);
                wait = false;
            }
            self.read_needed();
            let (mut some, mut left) = (false, false);
            for expert in 0..count {
                let slot = self.slots.get_mut(self.place[first + expert] as usize);
                let here = slot.filter(|slot| self.needed[expert] && slot.reading == 0);
                if let Some(slot) = here {
                    if let Some(fault) = slot.fault.take() {
                        slot.expert = NONE;
                        self.place[first + expert] = NONE;
                        return Err(fault);
                    }
                    (self.wave[expert], some) = (true, true);
                } else {
                    self.wave[expert] = false;
                    left |= self.needed[expert];
                }
            }
            if some || !left {
                return Ok(some);
            }
            if self.reading == 0 {
                return Err(io::Error::other("there is no room for the experts of a token"));
            }
            wait = true;
        }
    }

    /// Whether an expert of the running layer is part of the wave.
    pub(crate) fn in_wave(&self, expert: usize) -> bool {
        self.wave[expert]
    }

    /// Whether the wave is the last one of its layer.
    pub(crate) fn is_last(&self) -> bool {
        self.needed.iter().zip(&self.wave).all(|(needed, wave)| !needed || *wave)
    }

    /// A matrix of an expert of the wave: gate, up or down.
    pub(crate) fn matrix(&self, expert: usize, part: usize) -> Option<&[u8]> {
        let layer = &self.layers[self.now];
        let slot = self.slots.get(self.place[layer.first + expert] as usize).filter(|_| self.wave[expert])?;
        let (start, stride) = layer.matrices[part];
        let from = ((start + expert as u64 * stride) % PAGE as u64) as usize;
        slot.buffers[part].as_ref()?.get(from..from + stride as usize)
    }

    /// The experts of the wave are computed.
    pub(crate) fn end_wave(&mut self) {
        for (needed, wave) in self.needed.iter_mut().zip(&mut self.wave) {
            *needed &= !*wave;
            *wave = false;
        }
    }

    /// Reads what is needed and nowhere, as far as there is room, and then what later layers will need.
    fn read_needed(&mut self) {
        let LayerAt { first, count, ref slots, .. } = self.layers[self.now];
        let slots = slots.clone();
        for expert in 0..count {
            if self.needed[expert] && self.place[first + expert] == NONE {
                let Some(slot) = self.goes(slots.clone(), f32::INFINITY) else { return };
                self.read(slot, self.now, expert, false);
            }
        }
        if self.all {
            self.read_ahead();
        }
    }

    fn read_ahead(&mut self) {
        for layer in self.now + 1..self.layers.len() {
            let LayerAt { first, count, ref slots, .. } = self.layers[layer];
            let slots = slots.clone();
            for expert in 0..count {
                if self.ahead >= AHEAD {
                    return;
                }
                let number = first + expert;
                if self.place[number] == NONE && self.policy.probability(number) >= LIKELY {
                    let wait = self.policy.wait(number, layer, self.now);
                    // Only for one that is needed later. If there is none, there is none for layers after this one.
                    let Some(slot) = self.goes(slots.clone(), wait) else { return };
                    self.read(slot, layer, expert, true);
                }
            }
        }
    }

    /// The slot of those given whose expert goes first, of those that are needed later than after `wait` layers, unless
    /// that is infinite.
    fn goes(&mut self, slots: Range<usize>, wait: f32) -> Option<usize> {
        let least = if wait.is_finite() { wait } else { 0.0 };
        self.held.fill(0);
        if self.all {
            let slots = self.slots.iter().filter(|slot| slot.expert != NONE);
            slots.for_each(|slot| self.held[slot.layer] += 1);
        }
        let (mut best, mut first) = (None, (false, f32::NEG_INFINITY, f32::NEG_INFINITY));
        for (index, slot) in self.slots.get(slots.clone())?.iter().enumerate() {
            if slot.reading > 0 {
                continue;
            }
            if slot.expert == NONE {
                return Some(slots.start + index);
            }
            let number = slot.expert as usize;
            if slot.layer == self.now && self.needed[number - self.layers[self.now].first] {
                continue;
            }
            let wait = self.policy.wait(number, slot.layer, self.now);
            let rank = self.policy.rank(wait, self.held[slot.layer]);
            if wait > least && rank > first {
                (best, first) = (Some(slots.start + index), rank);
            }
        }
        best
    }

    /// Starts to read an expert into a slot.
    fn read(&mut self, index: usize, layer: usize, expert: usize, ahead: bool) {
        let at = &self.layers[layer];
        let (number, slot) = (at.first + expert, &mut self.slots[index]);
        if slot.expert != NONE {
            self.place[slot.expert as usize] = NONE;
        }
        (slot.expert, slot.layer, slot.fault) = (number as u32, layer, None);
        self.place[number] = index as u32;
        for (part, (buffer, (start, stride))) in slot.buffers.iter_mut().zip(at.matrices).enumerate() {
            let Some(buffer) = buffer.take() else { continue };
            let start = start + expert as u64 * stride;
            let within = start % PAGE as u64;
            let (at, needed) = (start - within, (within + stride) as usize);
            let fresh = slot.fresh;
            slot.reading += 1;
            self.readers.start(Read { slot: index, part, buffer, at, needed, fresh, ahead, result: Ok(()) });
        }
        slot.fresh = false;
        self.reading += 1;
        self.ahead += usize::from(ahead);
    }

    /// Puts a buffer back.
    fn arrive(&mut self, read: Read) {
        let Read { slot, part, buffer, needed, ahead, result, .. } = read;
        let slot = &mut self.slots[slot];
        self.stats.bytes_read += needed as u64;
        slot.buffers[part] = Some(buffer);
        slot.reading -= 1;
        if let Err(fault) = result {
            slot.fault = Some(fault);
        }
        if slot.reading > 0 {
            return;
        }
        self.reading -= 1;
        self.ahead -= usize::from(ahead);
        // What was not waited for is read again when it is.
        let waited =
            slot.layer == self.now && self.needed[slot.expert as usize - self.layers[self.now].first];
        if slot.fault.is_some() && !waited {
            self.place[slot.expert as usize] = NONE;
            slot.expert = NONE;
        }
    }
}

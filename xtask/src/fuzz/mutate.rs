//! Inputs made from good ones, by words that mean something and by bytes.

use fastrand::Rng;

/// What inputs of one kind are made from.
#[derive(Debug)]
pub(crate) struct World {
    /// Good inputs.
    pub(crate) corpus: Vec<Vec<u8>>,
    /// Words that mean something in them.
    pub(crate) words: Vec<&'static str>,
    /// Longest input that is read, in bytes.
    pub(crate) longest: usize,
}

/// Characters and words with which parsers of every kind have had trouble.
const ODD: [&str; 24] = [
    "\0",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "é",
    "🦀",
    "\r\n",
    "\t",
    "\\",
    "\"",
    "'",
    "%",
    "%2",
    "$",
    "${",
    "#",
    "\u{7f}",
    "-1",
    "0",
    "65536",
    "4294967296",
    "99999999999999999999",
    "1e999",
    "\u{301}",
];

impl World {
    /// An input; a `large` one is about as long as is read.
    pub(crate) fn input(&self, random: &mut Rng, large: bool) -> Vec<u8> {
        let mut input = random.choice(&self.corpus).cloned().unwrap_or_default();
        for _ in 0..1_u8 << random.u8(0..4) {
            self.change(&mut input, random);
        }
        if large && !input.is_empty() {
            let piece = range(&input, random, 200);
            let piece = if piece.is_empty() { input.clone() } else { input[piece].to_vec() };
            let at = random.usize(0..=input.len());
            let many = self.longest.saturating_sub(input.len()) / piece.len();
            input.splice(at..at, piece.repeat(many));
        }
        input
    }

    fn change(&self, input: &mut Vec<u8>, random: &mut Rng) {
        let at = random.usize(0..=input.len());
        match random.u8(0..12) {
            0..3 => {
                let word = random.choice(&self.words).copied().unwrap_or_default();
                input.splice(at..at, word.bytes());
            }
            3 => {
                let word = random.choice(&self.words).copied().unwrap_or_default();
                let cut = range(input, random, 20);
                input.splice(cut, word.bytes());
            }
            4 => {
                let word = random.choice(ODD).unwrap_or_default();
                input.splice(at..at, word.bytes());
            }
            5 => {
                input.drain(range(input, random, 64));
            }
            6 => {
                let copy = input[range(input, random, 64)].to_vec();
                let times = if random.u8(..) == 0 { 300 } else { random.usize(1..4) };
                input.splice(at..at, copy.repeat(times));
            }
            7 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.u8(0..8);
                }
            }
            8 => input.insert(at, random.u8(..)),
            9 => input.truncate(at),
            10 => {
                let other = random.choice(&self.corpus).cloned().unwrap_or_default();
                let part = other[range(&other, random, 400)].to_vec();
                input.splice(at..at, part);
            }
            _ => {
                let word = random.choice(&self.words).copied().unwrap_or_default();
                let times = if random.u8(..) == 0 { 400 } else { random.usize(1..20) };
                input.splice(at..at, word.repeat(times).into_bytes());
            }
        }
    }
}

/// Some part of the bytes, of at most `most`.
fn range(bytes: &[u8], random: &mut Rng, most: usize) -> std::ops::Range<usize> {
    let from = random.usize(0..=bytes.len());
    from..random.usize(from..=bytes.len().min(from + most))
}

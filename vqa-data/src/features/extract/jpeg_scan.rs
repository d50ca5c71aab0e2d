//! Checks that the scans of a JPEG hold all of its pixels.
//!
//! A decoder that runs out of a scan's data continues with zeros, which leaves the rest of the picture grey, and no
//! decoder reports it. So the codes are walked through here beforehand, without decoding pixels. Names are those of
//! ITU-T T.81.

/// How the data of a scan differ from what the frame promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanError {
    /// The data end before the last block.
    Short,
    /// Some bits are not a code, or a block has too many coefficients.
    Invalid,
}

type Result<T> = std::result::Result<T, ScanError>;

/// A start-of-frame segment.
pub(super) struct Frame {
    is_progressive: bool,
    components: Vec<Component>,
    width: usize,
    height: usize,
    h_max: usize,
    v_max: usize,
}

struct Component {
    id: u8,
    /// Sampling factors.
    h: usize,
    v: usize,
    /// For each block of a progressive picture, row by row, which of its coefficients are not zero.
    nonzero: Vec<u64>,
    /// Blocks in a row of `nonzero`, including those that fill up the last unit of an interleaved scan.
    blocks_per_row: usize,
}

impl Frame {
    /// Parses the payload of a SOF0, SOF1 or SOF2 segment, of a picture with at most `max_pixels`.
    pub(super) fn parse(payload: &[u8], is_progressive: bool, max_pixels: u64) -> Option<Frame> {
        let &[8, h1, h2, w1, w2, n, ref rest @ ..] = payload else { return None };
        let [height, width] = [[h1, h2], [w1, w2]].map(|bytes| usize::from(u16::from_be_bytes(bytes)));
        if width == 0 || height == 0 || (width * height) as u64 > max_pixels || rest.len() < 3 * usize::from(n) {
            return None;
        }
        let of_bytes = |&[id, sampling, _]: &[u8; 3]| Component {
            id,
            h: usize::from(sampling >> 4),
            v: usize::from(sampling & 15),
            nonzero: Vec::new(),
            blocks_per_row: 0,
        };
        let mut components: Vec<Component> = rest.as_chunks().0[..n.into()].iter().map(of_bytes).collect();
        let is_sound = |component: &Component| (1..=4).contains(&component.h) && (1..=4).contains(&component.v);
        if components.len() > 4 || !components.iter().all(is_sound) {
            return None;
        }
        let h_max = components.iter().map(|component| component.h).max()?;
        let v_max = components.iter().map(|component| component.v).max()?;
        for component in &mut components {
            component.blocks_per_row = width.div_ceil(8 * h_max) * component.h;
            if is_progressive {
                component.nonzero = vec![0; component.blocks_per_row * height.div_ceil(8 * v_max) * component.v];
            }
        }
        Some(Frame { is_progressive, components, width, height, h_max, v_max })
    }
}

/// A Huffman table, which maps the next 16 bits to the value and the length of the code that they begin with.
pub(super) struct Huffman {
    /// By the first `SHORT` bits, the value and length of their code; the length is 0 for longer codes.
    short: [(u8, u8); 1 << Huffman::SHORT],
    /// For each length, the 16 bits just above its last code, and what is added to a code to get its index in `values`.
    above: [u32; 17],
    index: [i32; 17],
    values: Vec<u8>,
}

impl Huffman {
    /// Most codes have at most this many bits.
    const SHORT: u32 = 9;

    /// Builds the table from the 16 counts and the values, by length.
    pub(super) fn new(counts: &[u8; 16], values: &[u8]) -> Huffman {
        let mut table =
            Huffman { short: [(0, 0); 1 << Huffman::SHORT], above: [0; 17], index: [0; 17], values: values.to_vec() };
        let (mut code, mut k) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            table.index[length as usize] = k as i32 - code as i32;
            for _ in 0..count {
                if length <= Huffman::SHORT
                    && let Some(&value) = values.get(k)
                {
                    let free = Huffman::SHORT - length;
                    let first = (code << free) as usize;
                    let last = (first + (1 << free)).min(table.short.len());
                    table.short[first.min(last)..last].fill((value, length as u8));
                }
                code += 1;
                k += 1;
            }
            table.above[length as usize] = code << (16 - length);
            code <<= 1;
        }
        table
    }

    fn decode(&self, bits: &mut Bits) -> Result<u8> {
        let ahead = bits.peek16();
        let (value, length) = self.short[(ahead >> (16 - Huffman::SHORT)) as usize];
        if length > 0 {
            bits.skip(length.into())?;
            return Ok(value);
        }
        let length = (1..=16).find(|&length| ahead < self.above[length]).ok_or(ScanError::Invalid)?;
        bits.skip(length as u32)?;
        let index = self.index[length] + (ahead >> (16 - length)) as i32;
        self.values.get(index as usize).copied().ok_or(ScanError::Invalid)
    }
}

/// The bits of a scan up to a marker.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next `n` bits, from the highest on.
    next: u64,
    n: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, at: 0, next: 0, n: 0 }
    }

    fn fill(&mut self) {
        while self.n <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            if byte == 0xff {
                // 0xff 0x00 is a byte 0xff, and 0xff before anything else is a marker.
                if self.bytes.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.next |= u64::from(byte) << (56 - self.n);
            self.n += 8;
        }
    }

    /// The next 16 bits, filled up with zeros if there are fewer.
    fn peek16(&mut self) -> u32 {
        if self.n < 16 {
            self.fill();
        }
        (self.next >> 48) as u32
    }

    fn skip(&mut self, n: u32) -> Result<()> {
        if self.n < n {
            self.fill();
        }
        if self.n < n {
            return Err(ScanError::Short);
        }
        self.next <<= n;
        self.n -= n;
        Ok(())
    }

    /// Takes the next `n` bits, at most 16, as a number.
    fn take(&mut self, n: u32) -> Result<u32> {
        let bits = self.peek16().checked_shr(16 - n).unwrap_or(0);
        self.skip(n)?;
        Ok(bits)
    }

    /// Skips everything up to and including the next restart marker.
    fn restart(&mut self) -> Result<()> {
        (self.next, self.n) = (0, 0);
        while let Some(&byte) = self.bytes.get(self.at) {
            match (byte, self.bytes.get(self.at + 1)) {
                (0xff, Some(0xd0..=0xd7)) => {
                    self.at += 2;
                    return Ok(());
                }
                (0xff, Some(0x00)) => self.at += 2,
                (0xff, Some(0xff)) => self.at += 1,
                (0xff, _) => return Err(ScanError::Short),
                _ => self.at += 1,
            }
        }
        Err(ScanError::Short)
    }
}

/// The Huffman tables defined at some point in a file: those for DC and those for AC coefficients.
pub(super) type Tables = [[Option<Huffman>; 4]; 2];

/// A start-of-scan segment.
struct Scan<'a> {
    /// The index of each component in the frame, with its DC and AC tables.
    components: Vec<(usize, Option<&'a Huffman>, Option<&'a Huffman>)>,
    /// First and last coefficient.
    first: u32,
    last: u32,
    is_progressive: bool,
    /// Whether the scan adds bits to coefficients that an earlier scan began.
    is_refinement: bool,
}

impl<'a> Scan<'a> {
    fn parse(payload: &[u8], frame: &Frame, tables: &'a Tables) -> Option<Scan<'a>> {
        let (&n, rest) = payload.split_first()?;
        let (selectors, parameters) = rest.split_at_checked(2 * usize::from(n))?;
        let &[first, last, approximation, ..] = parameters else { return None };
        let mut components = Vec::new();
        for &[id, of_tables] in selectors.as_chunks().0 {
            let index = frame.components.iter().position(|component| component.id == id)?;
            let table = |class: usize, number: u8| tables[class].get(usize::from(number))?.as_ref();
            components.push((index, table(0, of_tables >> 4), table(1, of_tables & 15)));
        }
        let (first, last) = if frame.is_progressive { (first.into(), last.into()) } else { (0, 63) };
        let is_sound = !components.is_empty() && first <= last && last <= 63;
        let is_progressive = frame.is_progressive;
        let is_refinement = is_progressive && approximation >> 4 > 0;
        is_sound.then_some(Scan { components, first, last, is_progressive, is_refinement })
    }
}

/// Walks through a scan: the payload of its SOS segment, and the data that follow. Whatever is not understood here is
/// left to the decoder to refuse.
pub(super) fn walk(
    frame: &mut Frame,
    tables: &Tables,
    restart_interval: usize,
    payload: &[u8],
    data: &[u8],
) -> Result<()> {
    let Some(scan) = Scan::parse(payload, frame, tables) else { return Ok(()) };
    let needs_dc = scan.first == 0 && !scan.is_refinement;
    let needs_ac = scan.last > 0;
    if scan.components.iter().any(|(_, dc, ac)| (needs_dc && dc.is_none()) || (needs_ac && ac.is_none())) {
        return Ok(());
    }
    let (columns, rows) = match scan.components[..] {
        [(i, ..)] => {
            let Component { h, v, .. } = frame.components[i];
            ((frame.width * h).div_ceil(8 * frame.h_max), (frame.height * v).div_ceil(8 * frame.v_max))
        }
        _ => (frame.width.div_ceil(8 * frame.h_max), frame.height.div_ceil(8 * frame.v_max)),
    };
    let mut bits = Bits::new(data);
    let mut end_of_bands = 0;
    for unit in 0..columns * rows {
        if restart_interval > 0 && unit > 0 && unit % restart_interval == 0 {
            bits.restart()?;
            end_of_bands = 0;
        }
        let (row, column) = (unit / columns, unit % columns);
        for &(i, dc, ac) in &scan.components {
            let component = &mut frame.components[i];
            // A scan of one component has one block per unit.
            let (h, v) = if scan.components.len() == 1 { (1, 1) } else { (component.h, component.v) };
            for block in 0..h * v {
                let at = (row * v + block / h) * component.blocks_per_row + column * h + block % h;
                let mut none = 0;
                let nonzero = component.nonzero.get_mut(at).unwrap_or(&mut none);
                walk_block(&mut bits, &scan, dc, ac, nonzero, &mut end_of_bands)?;
            }
        }
    }
    Ok(())
}

/// Walks through one block. `end_of_bands` counts the following blocks that have nothing new.
fn walk_block(
    bits: &mut Bits,
    scan: &Scan,
    dc: Option<&Huffman>,
    ac: Option<&Huffman>,
    nonzero: &mut u64,
    end_of_bands: &mut u32,
) -> Result<()> {
    if scan.first == 0 {
        match dc {
            Some(dc) if !scan.is_refinement => {
                let n = dc.decode(bits)?;
                if n > 16 {
                    return Err(ScanError::Invalid);
                }
                bits.skip(n.into())?;
            }
            _ => bits.skip(1)?,
        }
    }
    let Some(ac) = ac.filter(|_| scan.last > 0) else { return Ok(()) };
    let mut k = scan.first.max(1);
    if *end_of_bands > 0 {
        *end_of_bands -= 1;
        return if scan.is_refinement { refine(bits, nonzero, k..scan.last + 1) } else { Ok(()) };
    }
    while k <= scan.last {
        let code = ac.decode(bits)?;
        let (run, size) = (u32::from(code >> 4), u32::from(code & 15));
        if size == 0 && run < 15 {
            if !scan.is_progressive {
                return Ok(());
            }
            // This block ends here, and that many following blocks have nothing new.
            *end_of_bands = (1 << run) - 1 + bits.take(run)?;
            return if scan.is_refinement { refine(bits, nonzero, k..scan.last + 1) } else { Ok(()) };
        }
        bits.skip(size)?;
        if scan.is_refinement {
            k = skip_zeros(bits, nonzero, k, scan.last, run)?;
        } else {
            k += run;
        }
        if k > scan.last {
            // Some encoders let a run of 16 zeros reach past the end.
            return if size == 0 { Ok(()) } else { Err(ScanError::Invalid) };
        }
        if size > 0 {
            *nonzero |= 1 << k;
        }
        k += 1;
    }
    Ok(())
}

/// Reads a bit for each coefficient that was not zero before.
fn refine(bits: &mut Bits, nonzero: &u64, band: std::ops::Range<u32>) -> Result<()> {
    let n = band.filter(|k| nonzero >> k & 1 == 1).count();
    (0..n).try_for_each(|_| bits.skip(1))
}

/// Skips `run` coefficients that are still zero, and all nonzero ones up to the next zero one; reads a bit for each of
/// the nonzero ones. Returns the index reached.
fn skip_zeros(bits: &mut Bits, nonzero: &u64, mut k: u32, last: u32, mut run: u32) -> Result<u32> {
    while k <= last {
        if nonzero >> k & 1 == 1 {
            bits.skip(1)?;
        } else if run == 0 {
            break;
        } else {
            run -= 1;
        }
        k += 1;
    }
    Ok(k)
}

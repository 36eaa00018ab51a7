//! CRC-32 (IEEE 802.3), eight bytes at a time.

const POLYNOMIAL: u32 = 0xedb8_8320;

static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut slice = 1;
    while slice < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[slice - 1][byte];
            tables[slice][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

/// The checksum of `bytes` after those whose checksum is `before`; that of nothing is 0.
pub(super) fn crc32(before: u32, bytes: &[u8]) -> u32 {
    let mut crc = !before;
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let [a, b, c, d, e, f, g, h] = *eight;
        let low = (crc ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
        let parts = [low[0], low[1], low[2], low[3], e, f, g, h];
        crc = 0;
        for (table, part) in TABLES.iter().rev().zip(parts) {
            crc ^= table[usize::from(part)];
        }
    }
    for byte in rest {
        crc = (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(crc32(0, b""), 0);
        // The check value of the standard.
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        let long: Vec<u8> = (0..1_000u32).map(|i| (i * 7) as u8).collect();
        for cut in [0, 1, 7, 8, 9, 500, 1_000] {
            let (a, b) = long.split_at(cut);
            assert_eq!(crc32(crc32(0, a), b), crc32(0, &long), "cut at {cut}");
        }
        let by_bytes = long.iter().fold(0, |crc, byte| crc32(crc, &[*byte]));
        assert_eq!(by_bytes, crc32(0, &long));
    }
}

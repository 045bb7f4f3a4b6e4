//! The checks of the fuzz targets, on inputs from seeds. The fuzzer, which needs a nightly compiler, looks further: see
//! `embedded/fuzz/README.md`.

mod decoder;
mod machine;

use lockkeeper_embedded::wire::decode;

const INPUTS: u64 = 20_000;

#[test]
fn the_decoder_survives_any_bytes() {
    let mut decoded = 0;
    for seed in 0..INPUTS {
        let mut dice = Dice(seed);
        let mut bytes = dice.request();
        if dice.below(2) == 0 {
            dice.spoil(&mut bytes);
        }
        named(seed, &bytes, decoder::check);
        decoded += u64::from(decode::request(&bytes).is_ok());
    }
    assert!(decoded > INPUTS / 2, "only {decoded} inputs are requests");
}

#[test]
fn the_machine_answers_every_request_once_whatever_comes() {
    for seed in 0..INPUTS / 10 {
        let mut dice = Dice(seed);
        // A connection with a session comes first, because most steps need one.
        let mut bytes = vec![0, 0, 1, 0];
        for _ in 0..dice.below(60) {
            let request = dice.request();
            let (kind, target) = match dice.below(3) {
                0 => (dice.below(9), dice.below(256)),
                _ => (9, dice.below(4)),
            };
            let length = request.len().min(255);
            bytes.extend([kind as u8, target as u8, length as u8]);
            bytes.extend(&request[..length]);
        }
        named(seed, &bytes, machine::check);
    }
}

/// Prints the seed of an input that panics.
fn named(seed: u64, bytes: &[u8], check: fn(&[u8])) {
    struct Named(u64);

    impl Drop for Named {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the input of seed {}", self.0);
            }
        }
    }

    let _named = Named(seed);
    check(bytes);
}

/// SplitMix64, by Steele, Lea and Flood (OOPSLA 2014).
struct Dice(u64);

/// The numbers of ZooKeeper's operations, and some that mean nothing.
const OPERATIONS: [i32; 28] = [
    -11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 100, 101, 103, 104, 105,
    106,
];

const PATHS: [&str; 8] = ["/", "/a", "/a/b", "/b-", "/zookeeper", "", "a", "/a//b"];

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A header, and fields as operations have them, in any order.
    fn request(&mut self) -> Vec<u8> {
        let operation = OPERATIONS[self.below(OPERATIONS.len() as u64) as usize];
        let mut bytes = (self.next() as i32).to_be_bytes().to_vec();
        bytes.extend(operation.to_be_bytes());
        let path = PATHS[self.below(PATHS.len() as u64) as usize];
        bytes.extend((path.len() as i32).to_be_bytes());
        bytes.extend(path.as_bytes());
        for _ in 0..self.below(6) {
            match self.below(4) {
                0 => bytes.extend((self.below(3) as i32 - 1).to_be_bytes()),
                1 => bytes.push(self.below(2) as u8),
                // The access list that permits everything to anyone.
                2 => bytes.extend(b"\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone\0\0\0\0"),
                _ => bytes.extend(b"\0\0\0\x04data"),
            }
        }
        bytes
    }

    /// Changes, removes or adds some bytes.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() as u64 + 1) as usize;
            match self.below(3) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.next() as u8),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = !*byte),
            }
        }
    }
}

//! Which addresses a request may go to.
//!
//! The tables are the registries of special-purpose addresses of IANA: everything that is not globally reachable, and
//! ranges that carry an IPv4 address, by that address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far requests may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Addresses of the internet.
    Public,
    /// Also this machine and private networks. Never the link, where clouds have their metadata service.
    Private,
}

type Block = (Ipv4Addr, u32);

/// Addresses for which no request is ever meant: of no host, of the link, of groups, and of the service that Azure has
/// for each machine.
const NEVER: &[Block] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// This machine and private networks, those of carriers, and those for examples and benchmarks.
const PRIVATE: &[Block] = &[
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
];
/// The metadata service of Alibaba Cloud, in a range that is otherwise a carrier's.
const METADATA_IPV4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
/// The metadata service of Amazon, in a range that is otherwise private.
const METADATA_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

impl Reach {
    /// Whether a request may go to `address`.
    pub fn has(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.has_ipv4(address),
            IpAddr::V6(address) => self.has_ipv6(address),
        }
    }

    fn has_ipv4(self, address: Ipv4Addr) -> bool {
        let is_in = |blocks: &[Block]| blocks.iter().any(|&block| contains(block, address));
        !is_in(NEVER) && address != METADATA_IPV4 && (self == Self::Private || !is_in(PRIVATE))
    }

    fn has_ipv6(self, address: Ipv6Addr) -> bool {
        match address.segments() {
            // Translated to IPv4 by the network, which is how hosts without IPv4 reach it.
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
                self.has_ipv4(Ipv4Addr::new(a, b, c, d))
            }
            // For protocols, Teredo among them, which carries any IPv4 address; for examples; and 6to4, which does too.
            [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
            [0x2002, ..] | [0x3fff, 0..0x1000, ..] => false,
            [0x2000..=0x3fff, ..] => true,
            [0, 0, 0, 0, 0, 0, 0, 1] => self == Self::Private,
            [0xfc00..=0xfdff, ..] => self == Self::Private && address != METADATA_IPV6,
            // Of no host, of the link, of groups, mapped from IPv4, or not assigned.
            _ => false,
        }
    }
}

fn contains((network, length): Block, address: Ipv4Addr) -> bool {
    let mask = u32::MAX << (32 - length);
    address.to_bits() & mask == network.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_internet_is_public() {
        let internet = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2606:4700::1111",
            "2a00:1450::1",
            "64:ff9b::101:101",
        ];
        let private = [
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "::1",
            "fc00::1",
            "fdff::1",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
        ];
        let never = [
            "0.0.0.0",
            "0.1.2.3",
            "100.100.100.200",
            "168.63.129.16",
            "169.254.0.1",
            "169.254.169.254",
            "192.0.0.192",
            "192.88.99.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::ffff:1.1.1.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::101:101",
            "100::1",
            "2001::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2002:a9fe:a9fe::1",
            "3fff:fff::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for (addresses, expected) in
            [(&internet[..], (true, true)), (&private, (false, true)), (&never, (false, false))]
        {
            for text in addresses {
                let address = text.parse().unwrap();
                assert_eq!((Reach::Public.has(address), Reach::Private.has(address)), expected, "{text}");
            }
        }
    }
}

//! How far an address reaches: the public internet, the own network, or what no URL may touch.
//!
//! Pure; forms that carry an IPv4 address in an IPv6 one are judged by what they carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches, the widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// The public internet.
    Public,
    /// The own machine or network, or a range that is not routed: loopback, RFC 1918, CGNAT, ULA, documentation.
    Private,
    /// Link-local, cloud metadata, unspecified, multicast, broadcast and reserved addresses.
    Never,
}

pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [0 | 224..=255, ..]
        | [169, 254, ..]
        // Metadata services at addresses of their own: Alibaba Cloud, Oracle Cloud, Azure's wire server.
        | [100, 100, 100, 200]
        | [192, 0, 0, 192]
        | [168, 63, 129, 16] => Reach::Never,
        [10 | 127, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [100, 64..=127, ..]
        // IANA special purpose: protocol assignments, documentation, 6to4 relays, benchmarks.
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if address.is_unspecified() || address.is_multicast() {
        return Reach::Never;
    }
    if address.is_loopback() {
        return Reach::Private;
    }
    let segments = address.segments();
    match segments {
        [0xfe80..=0xfebf, ..]
        // Metadata services: Amazon (the range of EC2's own services), Google Cloud.
        | [0xfd00, 0x0ec2, ..]
        | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => Reach::Never,
        // IPv4-mapped, IPv4-translated, NAT64 and the deprecated IPv4-compatible form carry it at their end, 6to4 behind
        // its prefix.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x0064, 0xff9b, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => reach_v4(carried(high, low)),
        // NAT64 with a local prefix (RFC 8215): the network's own.
        [0x0064, 0xff9b, 1, _, _, _, high, low] => Reach::Private.max(reach_v4(carried(high, low))),
        // Teredo carries the server's behind its prefix and the client's inverted at its end.
        [0x2001, 0, high, low, _, _, client_high, client_low] => {
            reach_v4(carried(high, low)).max(reach_v4(carried(!client_high, !client_low)))
        }
        // ULA, the deprecated site-local range, documentation, discard.
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..]
        | [0x2001, 0x0db8, ..]
        | [0x3fff, 0..=0x0fff, ..]
        | [0x0100, 0, 0, 0, ..] => isatap(segments).max(Reach::Private),
        _ => isatap(segments),
    }
}

/// ISATAP carries an IPv4 address behind a fixed middle, in any network.
fn isatap(segments: [u16; 8]) -> Reach {
    match segments {
        [.., 0 | 0x0200, 0x5efe, high, low] => reach_v4(carried(high, low)),
        _ => Reach::Public,
    }
}

fn carried(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_judged_by_what_they_reach() {
        use Reach::{Never, Private, Public};
        for (address, wanted) in [
            ("8.8.8.8", Public),
            ("1.1.1.1", Public),
            ("172.15.255.255", Public),
            ("172.32.0.1", Public),
            ("100.63.255.255", Public),
            ("100.128.0.0", Public),
            ("169.253.1.1", Public),
            ("223.255.255.254", Public),
            ("127.0.0.1", Private),
            ("127.255.255.255", Private),
            ("10.0.0.1", Private),
            ("172.16.0.1", Private),
            ("172.31.255.255", Private),
            ("192.168.1.1", Private),
            ("100.64.0.1", Private),
            ("192.0.2.1", Private),
            ("198.18.0.1", Private),
            ("203.0.113.9", Private),
            ("0.0.0.0", Never),
            ("0.1.2.3", Never),
            ("169.254.0.1", Never),
            ("169.254.169.254", Never),
            ("100.100.100.200", Never),
            ("192.0.0.192", Never),
            ("168.63.129.16", Never),
            ("224.0.0.1", Never),
            ("239.255.255.255", Never),
            ("240.0.0.1", Never),
            ("255.255.255.255", Never),
            ("2606:4700:4700::1111", Public),
            ("::1", Private),
            ("fc00::1", Private),
            ("fd12:3456::1", Private),
            ("fec0::1", Private),
            ("2001:db8::1", Private),
            ("::", Never),
            ("fe80::1", Never),
            ("febf::1", Never),
            ("ff02::1", Never),
            ("fd00:ec2::254", Never),
            ("fd20:ce::254", Never),
            ("::ffff:8.8.8.8", Public),
            ("::ffff:127.0.0.1", Private),
            ("::ffff:192.168.0.1", Private),
            ("::ffff:169.254.169.254", Never),
            ("::ffff:0.0.0.0", Never),
            ("::ffff:0:169.254.169.254", Never),
            ("::169.254.169.254", Never),
            ("::10.0.0.1", Private),
            ("64:ff9b::8.8.8.8", Public),
            ("64:ff9b::10.0.0.1", Private),
            ("64:ff9b::169.254.169.254", Never),
            ("64:ff9b:1::8.8.8.8", Private),
            ("64:ff9b:1::a9fe:a9fe", Never),
            ("2002:0808:0808::1", Public),
            ("2002:7f00:1::1", Private),
            ("2002:c0a8:101::1", Private),
            ("2002:a9fe:a9fe::1", Never),
            ("2001:0:808:808::f7f7:f7f7", Public),
            ("2001:0:808:808::5601:5601", Never),
            ("2001:0:808:808::80ff:fffe", Private),
            ("2a00:1450::5efe:a9fe:a9fe", Never),
            ("fd12::200:5efe:a00:1", Private),
        ] {
            assert_eq!(reach(address.parse().unwrap()), wanted, "{address}");
        }
    }
}

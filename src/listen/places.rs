//! Places for connections: so many in all, so many for one peer; and when they are short, the idlest goes for who comes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How many connections there may be at one time.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionBounds {
    pub all: usize,
    /// Of one peer: an IPv4 address, or an IPv6 network of 64 bits, all of which one host may have to itself.
    pub of_one: usize,
    /// How long a connection that was used is let be, and then may go for another. One that never was used may go at once.
    pub idle: Duration,
}

/// The places of one port.
#[derive(Debug)]
pub struct Places {
    bounds: ConnectionBounds,
    opened: Instant,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    last: u64,
    /// In the order in which they came.
    seats: BTreeMap<u64, Arc<Seat>>,
}

/// A connection's place, which is given back when this is dropped.
#[derive(Debug)]
pub struct ConnectionPlace {
    places: Arc<Places>,
    seat: Arc<Seat>,
}

/// What those who serve a connection know of its place.
#[derive(Debug)]
pub struct Seat {
    number: u64,
    peer: IpAddr,
    since: Instant,
    opened: Instant,
    /// In milliseconds after `opened`, from 1; 0 for never.
    used: AtomicU64,
    needed: AtomicBool,
    over: Notify,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("there are too many")]
    All,
    #[error("their address has too many")]
    OfOne,
}

// === impl Places ===

impl Places {
    #[must_use]
    pub fn new(bounds: ConnectionBounds) -> Self {
        Places { bounds, opened: Instant::now(), taken: Mutex::default() }
    }

    /// A place for a connection of `peer`, and whether another connection has to go for it.
    ///
    /// # Errors
    ///
    /// There is none, and none whose connection is idle.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Result<(ConnectionPlace, bool), Full> {
        let peer = network(peer);
        let mut taken = self.taken.lock();
        let of_peer = taken.seats.values().filter(|seat| seat.peer == peer).count();
        let gone = if of_peer >= self.bounds.of_one {
            Some(self.idlest(&taken, |seat| seat.peer == peer).ok_or(Full::OfOne)?)
        } else if taken.seats.len() >= self.bounds.all {
            Some(self.idlest(&taken, |_| true).ok_or(Full::All)?)
        } else {
            None
        };
        if let Some(seat) = gone.and_then(|number| taken.seats.remove(&number)) {
            seat.needed.store(true, Ordering::Relaxed);
            seat.over.notify_one();
        }
        taken.last += 1;
        let seat = Arc::new(Seat {
            number: taken.last,
            peer,
            since: Instant::now(),
            opened: self.opened,
            used: AtomicU64::new(0),
            needed: AtomicBool::new(false),
            over: Notify::new(),
        });
        taken.seats.insert(seat.number, Arc::clone(&seat));
        Ok((ConnectionPlace { places: Arc::clone(self), seat }, gone.is_some()))
    }

    /// The number of the one that is idle for longest: of those that were never used, the oldest.
    fn idlest(&self, taken: &Taken, of: impl Fn(&Seat) -> bool) -> Option<u64> {
        let seats = taken.seats.values().filter(|seat| of(seat));
        let (used, number) = seats.map(|seat| (seat.used.load(Ordering::Relaxed), seat.number)).min()?;
        let idle = Duration::from_millis(millis(self.opened).saturating_sub(used));
        (used == 0 || idle >= self.bounds.idle).then_some(number)
    }
}

/// From 1 on.
fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

// === impl ConnectionPlace ===

impl ConnectionPlace {
    #[must_use]
    pub fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.places.taken.lock().seats.remove(&self.seat.number);
        self.seat.over.notify_one();
    }
}

// === impl Seat ===

impl Seat {
    /// Notes that the connection is of use: it asked for something, whole.
    pub fn used(&self) {
        self.used.store(millis(self.opened), Ordering::Relaxed);
    }

    /// When the connection came.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether the connection has to go, since another has its place.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.needed.load(Ordering::Relaxed)
    }

    /// Waits until the connection has to go, or has gone. One may wait.
    pub async fn over(&self) {
        self.over.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LET_BE: Duration = Duration::from_secs(3600);

    fn places(all: usize, of_one: usize, idle: Duration) -> Arc<Places> {
        Arc::new(Places::new(ConnectionBounds { all, of_one, idle }))
    }

    fn peer(at: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, at])
    }

    #[test]
    fn one_peer_takes_no_more_than_its_share() {
        let places = places(4, 2, LET_BE);
        let mut taken: Vec<ConnectionPlace> = (0..2).map(|_| places.take(peer(1)).unwrap().0).collect();
        taken.iter().for_each(|place| place.seat.used());
        assert_eq!(places.take(peer(1)).unwrap_err(), Full::OfOne);
        assert!(places.take(peer(2)).is_ok_and(|(_, gone)| !gone), "there is room for others");
        taken.pop();
        assert!(places.take(peer(1)).is_ok_and(|(_, gone)| !gone), "a place that is given back is free");
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer_and_ipv4_in_ipv6_is_ipv4() {
        let places = places(8, 1, LET_BE);
        let mut taken = Vec::new();
        for (first, same) in [("2001:db8::1", "2001:db8::ffff:0:0:2"), ("::ffff:10.0.0.1", "10.0.0.1")] {
            taken.push(places.take(first.parse().unwrap()).unwrap().0);
            taken.last().unwrap().seat.used();
            assert_eq!(places.take(same.parse().unwrap()).unwrap_err(), Full::OfOne, "{same}");
        }
        assert!(places.take("2001:db8:0:1::1".parse().unwrap()).is_ok());
        assert!(places.take(peer(2)).is_ok());
    }

    #[tokio::test]
    async fn who_was_never_of_use_goes_first_and_the_oldest_of_them() {
        let places = places(3, 3, LET_BE);
        let [used, silent, newer] = [1, 2, 3].map(|at| places.take(peer(at)).unwrap().0);
        used.seat.used();
        let (_place, gone) = places.take(peer(4)).unwrap();
        assert!(gone && silent.seat.is_needed() && !newer.seat.is_needed() && !used.seat.is_needed());
        silent.seat.over().await;
        // Its place was given away already.
        drop(silent);
        let (_other, gone) = places.take(peer(5)).unwrap();
        assert!(gone && newer.seat.is_needed());
    }

    #[test]
    fn who_is_of_use_stays() {
        let places = places(2, 2, LET_BE);
        let taken = [1, 2].map(|at| places.take(peer(at)).unwrap().0);
        taken.iter().for_each(|place| place.seat.used());
        assert_eq!(places.take(peer(3)).unwrap_err(), Full::All);
        assert!(taken.iter().all(|place| !place.seat.is_needed()));
    }

    #[test]
    fn who_was_of_use_may_go_when_it_is_idle() {
        let places = places(2, 2, Duration::ZERO);
        let [first, second] = [1, 2].map(|at| places.take(peer(at)).unwrap().0);
        second.seat.used();
        // Which was of use longer ago is told by the clock alone.
        std::thread::sleep(Duration::from_millis(2));
        first.seat.used();
        assert!(places.take(peer(3)).unwrap().1);
        assert!(second.seat.is_needed() && !first.seat.is_needed());
    }

    #[test]
    fn a_peer_at_its_share_gives_up_one_of_its_own() {
        let places = places(4, 2, LET_BE);
        let [other, first, second] = [1, 2, 2].map(|at| places.take(peer(at)).unwrap().0);
        assert!(places.take(peer(2)).unwrap().1);
        assert!(first.seat.is_needed() && !second.seat.is_needed() && !other.seat.is_needed());
    }
}

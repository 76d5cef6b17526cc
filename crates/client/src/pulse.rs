//! Decides when to ping the server and when a connection is lost, without a socket or a clock.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The default ping interval: below the half minute after which some NATs drop an idle connection.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How many [`Pulse::tick`]s there are in an interval.
const TICKS: u32 = 4;

/// Bytes and pings that have passed over a socket so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Traffic {
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) pings_written: u64,
}

/// The action for a connection now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Beat {
    Rest,
    Ping,
    /// The machine was suspended, or this program did not run, for so long that the server or a NAT
    /// has dropped the connection.
    Suspended,
    /// Nothing was received for too long.
    Silent,
}

/// Monitors one connection.
#[derive(Debug)]
pub(crate) struct Pulse {
    interval: Duration,
    last: Moment,
    traffic: Traffic,
    last_alive: Instant,
    last_ping: Instant,
    pings: u64,
    is_unsent: bool,
}

/// One moment, on both clocks. Only the wall clock advances on all systems while a machine is
/// suspended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) monotonic: Instant,
    pub(crate) wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}

impl Pulse {
    pub(crate) fn new(interval: Duration, now: Moment) -> Self {
        // The resolution of the timer, times the ticks in an interval.
        let interval = interval.max(Duration::from_millis(4));
        Self {
            interval,
            last: now,
            traffic: Traffic::default(),
            last_alive: now.monotonic,
            last_ping: now.monotonic,
            pings: 0,
            is_unsent: false,
        }
    }

    /// The time between two calls of [`tick`](Self::tick).
    pub(crate) fn step(&self) -> Duration {
        self.interval / TICKS
    }

    /// How long the server may be silent.
    fn patience(&self) -> Duration {
        self.interval * 5 / 2
    }

    /// Checks the connection.
    pub(crate) fn tick(&mut self, now: Moment, traffic: Traffic) -> Beat {
        let passed = now.monotonic.duration_since(self.last.monotonic);
        let by_the_wall = now.wall.duration_since(self.last.wall);
        // The wall clock was set back: ignore it.
        let by_the_wall = by_the_wall.unwrap_or_default();
        self.last = now;
        if passed.max(by_the_wall) >= self.patience() {
            return Beat::Suspended;
        }
        // A ping that waits behind a long frame can't be answered yet. While it waits, written
        // bytes count as a sign of life. Afterwards they do not: the buffers of a dead connection
        // accept much data before they are full.
        let is_ping_waiting = traffic.pings_written < self.pings;
        let is_alive = traffic.bytes_read > self.traffic.bytes_read
            || (is_ping_waiting && traffic.bytes_written > self.traffic.bytes_written);
        self.traffic = traffic;
        if is_alive {
            self.last_alive = now.monotonic;
        }
        if now.monotonic - self.last_alive >= self.patience() {
            return Beat::Silent;
        }
        if std::mem::take(&mut self.is_unsent) {
            return Beat::Ping;
        }
        let since = self.last_ping.max(self.last_alive);
        if is_ping_waiting || now.monotonic - since < self.interval {
            return Beat::Rest;
        }
        self.last_ping = now.monotonic;
        self.pings += 1;
        Beat::Ping
    }

    /// The last requested ping could not be queued. It is requested again at the next tick, and
    /// counts as waiting.
    pub(crate) fn unsent(&mut self) {
        self.is_unsent = true;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tokio::time::Instant;

    use super::{Beat, Moment, Pulse, Traffic};

    const INTERVAL: Duration = Duration::from_secs(20);

    struct World {
        now: Moment,
        traffic: Traffic,
        pulse: Pulse,
    }

    impl World {
        fn new() -> Self {
            let now = Moment {
                monotonic: Instant::now(),
                wall: SystemTime::UNIX_EPOCH + Duration::from_hours(400_000),
            };
            Self {
                now,
                traffic: Traffic::default(),
                pulse: Pulse::new(INTERVAL, now),
            }
        }

        /// Runs this many steps, with `each` before every one. Returns the actions, each with the
        /// number of its step.
        fn run(&mut self, steps: u32, each: impl Fn(&mut Traffic)) -> Vec<(u32, Beat)> {
            let mut beats = Vec::new();
            for step in 1..=steps {
                each(&mut self.traffic);
                self.now.monotonic += self.pulse.step();
                self.now.wall += self.pulse.step();
                match self.pulse.tick(self.now, self.traffic) {
                    Beat::Rest => {}
                    beat => beats.push((step, beat)),
                }
            }
            beats
        }
    }

    #[test]
    fn a_connection_without_answers_is_lost_after_two_and_a_half_intervals() {
        let mut world = World::new();
        // All data is written immediately: a dead connection still accepts it.
        let beats = world.run(10, |traffic| {
            traffic.pings_written += 1;
            traffic.bytes_written += 6;
        });
        assert_eq!(
            beats,
            [(4, Beat::Ping), (8, Beat::Ping), (10, Beat::Silent)]
        );
    }

    #[test]
    fn a_connection_on_which_something_comes_is_neither_lost_nor_pinged() {
        let mut world = World::new();
        assert_eq!(world.run(1_000, |traffic| traffic.bytes_read += 1), []);
    }

    #[test]
    fn answers_keep_an_idle_connection() {
        let mut world = World::new();
        for _ in 0..100 {
            assert_eq!(world.run(4, |_| {}), [(4, Beat::Ping)]);
            world.traffic.pings_written += 1;
            world.traffic.bytes_read += 2;
            assert_eq!(world.run(1, |_| {}), []);
        }
    }

    #[test]
    fn a_ping_behind_a_long_frame_waits_as_long_as_the_frame_goes_out() {
        let mut world = World::new();
        let beats = world.run(1_000, |traffic| traffic.bytes_written += 1_000);
        assert_eq!(beats, [(4, Beat::Ping)]);
        // Then writing stops.
        assert_eq!(world.run(10, |_| {}), [(10, Beat::Silent)]);
    }

    #[test]
    fn a_machine_that_was_suspended_has_lost_its_connection() {
        // The monotonic clock did not advance meanwhile, as on Linux.
        let mut world = World::new();
        world.now.wall += Duration::from_mins(5);
        assert_eq!(world.run(1, |_| {}), [(1, Beat::Suspended)]);
        // The monotonic clock advanced, as on other systems, and the timer fired late.
        let mut world = World::new();
        world.now.wall += Duration::from_mins(5);
        world.now.monotonic += Duration::from_mins(5);
        let beats = world.run(1, |traffic| traffic.bytes_read += 1);
        assert_eq!(beats, [(1, Beat::Suspended)]);
        // The clock is set back, or forward by a little.
        let mut world = World::new();
        world.now.wall -= Duration::from_mins(5);
        assert_eq!(world.run(1, |_| {}), []);
        world.now.wall += Duration::from_secs(30);
        assert_eq!(world.run(1, |_| {}), []);
    }
}

//! When to ping the server, and when a connection that still looks open is lost. Knows neither socket nor clock.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How often a connection is pinged unless a program says otherwise: below the half minute after which some NATs
/// forget a connection that is idle.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How often a [`Pulse`] is to be asked, in parts of the interval.
const TICKS: u32 = 4;

/// What passed over a socket until now.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Traffic {
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) pings_written: u64,
}

/// What to do about a connection now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Beat {
    Rest,
    Ping,
    /// The machine was suspended, or this program did not run, for so long that the server or a NAT has forgotten us.
    Suspended,
    /// Nothing came for too long.
    Silent,
}

/// Follows one connection.
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

/// One moment, by both clocks. Only the wall clock goes on everywhere while a machine is suspended.
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
        // A timer has no finer steps.
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

    /// How often [`tick`](Self::tick) is to be called.
    pub(crate) fn step(&self) -> Duration {
        self.interval / TICKS
    }

    /// How long nothing may come.
    fn patience(&self) -> Duration {
        self.interval * 5 / 2
    }

    /// Looks at the connection.
    pub(crate) fn tick(&mut self, now: Moment, traffic: Traffic) -> Beat {
        let passed = now.monotonic.duration_since(self.last.monotonic);
        let by_the_wall = now.wall.duration_since(self.last.wall);
        // A wall clock that was set back says nothing.
        let by_the_wall = by_the_wall.unwrap_or_default();
        self.last = now;
        if passed.max(by_the_wall) >= self.patience() {
            return Beat::Suspended;
        }
        // A ping that waits behind a long frame can't be answered, so what is written counts as long as it waits. Once
        // it is written, it doesn't: a dead connection takes a good deal before it takes no more.
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

    /// The ping that was asked for last could not be queued: it is asked for again, and waits as if it were.
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

        /// What is done in this many steps, with the step that it is done in; `each` is what happens before every step.
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
        // Pings are written at once, as a dead connection takes them, and so is what else is written.
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
        // Then it stands still.
        assert_eq!(world.run(10, |_| {}), [(10, Beat::Silent)]);
    }

    #[test]
    fn a_machine_that_was_suspended_has_lost_its_connection() {
        // The monotonic clock stood still meanwhile, as on Linux.
        let mut world = World::new();
        world.now.wall += Duration::from_mins(5);
        assert_eq!(world.run(1, |_| {}), [(1, Beat::Suspended)]);
        // It went on, as elsewhere, and the timer came late.
        let mut world = World::new();
        world.now.wall += Duration::from_mins(5);
        world.now.monotonic += Duration::from_mins(5);
        let beats = world.run(1, |traffic| traffic.bytes_read += 1);
        assert_eq!(beats, [(1, Beat::Suspended)]);
        // Somebody set the clock back, or forward by a little.
        let mut world = World::new();
        world.now.wall -= Duration::from_mins(5);
        assert_eq!(world.run(1, |_| {}), []);
        world.now.wall += Duration::from_secs(30);
        assert_eq!(world.run(1, |_| {}), []);
    }
}

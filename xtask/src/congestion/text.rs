//! What people have to say on the page.

pub(super) const INTRODUCTION: &str = "\
# Choosing a congestion controller

quinn-proto has three: CUBIC (the default), NewReno and BBR. A server that sends much decides by
`TransportConfig::congestion_controller_factory` how fast it sends, and how long everybody else on the
path waits. This page is what they did on simulated links; it is written by `cargo xtask congestion`
from [one file of results](benchmarks/congestion.json).

## What to choose

**Stay with CUBIC unless a line of this table is yours.** Only the sender’s controller counts: the
server’s for downloads, the client’s for uploads. Figures in order: CUBIC, NewReno, BBR.

";

pub(super) const AFTER_ADVICE: &str = "
- **Set the window first.** On long fast paths the receiver’s stream window decides before any
  controller does; see [Windows](#windows).
- **Loss that is not congestion is what CUBIC and NewReno cannot bear**, by design: at 1 % they use a
  tenth of such a path. If it is a path of your own that nobody else uses, BBR repairs that.
- **quinn-proto’s BBR takes the path from everybody else** and does not heed ECN. What is
  wrong with it is [below](#quinn-protos-bbr). It is not BBR as Linux or Chromium have it.
- **A deep buffer is full with any of them**: hundreds of milliseconds that every other connection of the
  household waits, too. A queue that marks or drops early (CoDel) mends that for CUBIC and NewReno
  at the price of a few percent.
";

pub(super) const LINKS: &str = "
## One transfer

Goodput is what the application received, in Mbit/s, and as a share of what the link could have carried with
all headers (of which 98 % is the most that fits); it includes the start. Waiting is in the queue of the
bottleneck: the mean, and what 95 of 100 packets stay below. Sent again is the share of packets that the
sender took for lost. The last columns are the time of a download of that size from the first
packet of the handshake to the last byte.

";

pub(super) const ACCIDENTS: &str = "
## After an accident

An outage of two seconds, both ways; and a path MTU that falls from 1500 to 1300 bytes without a word,
below what had been discovered, in the middle of a transfer at 50 Mbit/s and 40 ms. Silent is the longest
time without a byte after the link was mended (or the MTU fell), recovered is when half a
second has 80 % of the goodput of before.

";

pub(super) const AFTER_ACCIDENTS: &str = "
How long it is silent is decided by when the next probe is sent (RFC 9002 section 6.2.4), whose interval
doubles during the outage: that is chance rather than a controller’s merit. What follows is the
controller: NewReno adds one packet for each round trip, which takes minutes by satellite. A black hole
is found after several bursts of losses, each of which counts as congestion; until then every
full packet is lost.

";

pub(super) const PAIRS: &str = "
## Two transfers

Two servers send to two clients through one link of 20 Mbit/s, 40 ms away unless said otherwise, for 40
seconds, of which the last 30 count. Jain’s index is 1 if both get the same and 0.5 if one gets all.

";

pub(super) const LATE: &str = "
### A late comer

The second begins 15 seconds after the first, with the same controller. Its share in its first ten
seconds and in the last ten of its thirty, and how long until it had 40 % within a second (30 s: never).

";

pub(super) const RTT: &str = "
### Near and far

The same controller twice, 20 and 80 ms away: the share of the near one.

";

pub(super) const WINDOWS: &str = "
## Windows

By satellite 1.5 MB are on the way at 20 Mbit/s and 600 ms. `stream_receive_window` is 1,250,000 bytes by
default, and set by the **receiver**; what it has not acknowledged, the sender may not exceed. Goodput in
Mbit/s over 60 seconds with the start, mean waiting, and what was sent again:

";

pub(super) const AFTER_WINDOWS: &str = "
So the window has to be at least what is on the way, and a little more, as credit is given in steps:
rate × round trip × 1.5 is a good rule. Far more than that fills the buffer as well. `send_window` (10 MB)
has to be above it too. Everything else on this page was measured with 16 MiB, where no window decides.
";

pub(super) const BBR: &str = "
## quinn-proto’s BBR

Its documentation calls it experimental, and that is right. What is seen here has these causes, in
quinn-proto 0.11.19:

";

pub(super) const METHOD: &str = "
## How it was measured

The servers and clients are polyquic on [its simulator](ARCHITECTURE.md): the real protocol, the real
controllers, the real cryptography, with virtual time and a model network. Packets are 1,452 bytes of UDP payload once
path MTU discovery is done. Figures are medians of the seeds, with the lowest and the highest in
parentheses where they differ by more than 2 %. With the same seed CUBIC and NewReno give the same
figures to the last digit; a test repeats some of them. BBR draws from the system’s
randomness, so it promises less; the runs that were repeated came out the same all the same, as what it draws for is
the pacing that nobody uses. Where a link loses nothing and has no jitter, seeds change next to nothing, and ranges
are narrow.

```console
$ cargo xtask congestion --publish
```

What it cannot say:

- It is a model. Real radio links retransmit themselves, real Wi-Fi shares the air with acknowledgements, real
  routers have several queues. A fair queue (fq_codel, CAKE) would protect others from a sender that does
  not yield; here all share one.
- One implementation of each controller. CUBIC here has no HyStart++ (RFC 9406), and so overshoots once at the start
  of every transfer: that is the longest wait behind CoDel.
- Two transfers are the least that can compete. Many short ones are another matter.
- Work takes no time here. How fast a processor sends is in [the benchmarks](BENCHMARKS.md).
";

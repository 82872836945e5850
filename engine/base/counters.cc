#include "base/counters.h"

namespace natrp {
namespace {

constexpr std::array<CounterInfo, static_cast<size_t>(Counter::kCount)> kInfo{{
    {"natrp_visitors_total", "visitors accepted on public ports", false},
    {"natrp_visitors_refused_total",
     "visitors reset: their client has its conns-max, or there was no slot, session, place to wait or channel in time",
     false},
    {"natrp_visitors_left_total", "visitors that left while they waited for a data channel", false},
    {"natrp_bytes_up_total", "bytes carried towards services", false},
    {"natrp_bytes_down_total", "bytes carried towards visitors", false},
    {"natrp_bytes_spliced_total", "of these, bytes moved by splice, without a copy", false},
    {"natrp_promotions_total", "directions that went from copying to splicing", false},
    {"natrp_demotions_total", "directions that went back from splicing to copying", false},
    {"natrp_pump_stalls_total", "directions that splice could not move for a second and that copy for good now", false},
    {"natrp_pipes_exhausted_total", "promotions that found no pipe and went on copying", false},
    {"natrp_buffers_exhausted_total", "receives that had to wait for a buffer", false},
    {"natrp_buffers_reclaimed_total", "pairs ended because they held a buffer without progress when none was left",
     false},
    {"natrp_peers_silent_total", "pairs ended because the other host answered nothing for 20 s", false},
    {"natrp_pairs_failed_total", "pairs ended because the kernel could not move their bytes (no memory)", false},
    {"natrp_garbage_refused_total", "conns on the control port that spoke no protocol of ours", false},
    {"natrp_hello_refused_total", "data channels whose ticket was forged, replayed or of no session", false},
    {"natrp_hello_timeouts_total", "conns on the control port that said nothing useful in time", false},
    {"natrp_strangers_displaced_total", "silent conns on the control port that made room for newer ones", false},
    {"natrp_conns_refused_total", "conns on the control port, or moved to another worker, that found no slot", false},
    {"natrp_handshakes_refused_total", "agents turned away because too many others had no session yet", false},
    {"natrp_rendezvous_timeouts_total", "of the refused, visitors for which no data channel came in time", false},
    {"natrp_service_failures_total", "visitors reset because the agent could not reach the service", false},
    {"natrp_resets_carried_total", "resets of one side passed on to the other", false},
    {"natrp_accept_pauses_total", "pauses of accept because no descriptor was left", false},
    {"natrp_accepts_failed_total", "pauses of accept because the kernel refused it for another reason", false},
    {"natrp_channels_opened_total", "data channels that became ready", false},
    {"natrp_channels_lost_total", "ready data channels that ended before a visitor came", false},
    {"natrp_channels_moved_total", "ready data channels moved to another worker", false},
    {"natrp_channels_returned_total", "data channels that came back after a visitor, for the next one", false},
    {"natrp_channels_surplus_total", "data channels closed because more were ready than the edge has use or room for",
     false},
    {"natrp_dials_failed_total", "dials of the edge for a data channel that failed", false},
    {"natrp_conns_live", "conns that hold a slot of the table", true},
    {"natrp_pairs_live", "pairs of a visitor and its data channel", true},
    {"natrp_pipes_open", "pipes that exist, borrowed or pooled", true},
    {"natrp_channels_ready", "data channels waiting for a visitor", true},
}};

}  // namespace

const CounterInfo& counter_info(Counter counter) { return kInfo[static_cast<size_t>(counter)]; }

}  // namespace natrp

//! Multicast DNS on chosen interfaces: a machine between two networks is found in one of them only.

use crate::machine::{Machine, until};
use crate::wire::Wire;

fn quiet(swarm: &str) -> String {
    format!("[gateway]\nlisten = \"127.0.0.1:0\"\n[swarm]\nbootstrap = []\ndht = \"off\"\n{swarm}\n")
}

fn peers(machine: &Machine) -> Option<u64> {
    machine.json(&["status", "--json"])["peers"].as_u64()
}

#[test]
fn a_machine_is_found_on_the_interfaces_that_were_chosen_and_on_no_other() {
    let Some(mut wire) = Wire::new() else {
        return;
    };
    let between = wire.machine("between", &["10.77.0.1/24"]);
    wire.second("between", "10.78.0.1/24");
    let mut between = Machine::new(between);
    let everywhere = "listen = [\"/ip4/0.0.0.0/tcp/4001\"]";
    between.configure(&quiet(&format!("{everywhere}\nmdns_interfaces = [\"eth1\"]")));
    between.start();
    // Two in the network that was not chosen, one in the other.
    let others = [("a", "10.77.0.2/24"), ("b", "10.77.0.3/24")];
    let mut others = others.map(|(name, address)| Machine::new(wire.machine(name, &[address])));
    for machine in &mut others {
        machine.configure(&quiet(everywhere));
        machine.start();
    }
    let mut near = Machine::new(wire.on_second("near", "10.78.0.2/24"));
    near.configure(&quiet(everywhere));
    near.start();
    for machine in [&near, &others[0], &others[1]] {
        until("they find each other", || {
            (peers(machine) >= Some(1)).then_some(())
        });
    }
    until("it finds the one", || (peers(&between) >= Some(1)).then_some(()));
    // Those of the first network found each other by the same questions that it heard, too.
    assert_eq!(peers(&between), Some(1));
    assert_eq!((peers(&others[0]), peers(&others[1])), (Some(1), Some(1)));
}

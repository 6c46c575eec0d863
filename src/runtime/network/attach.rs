//! Into networks and out of them: what the starter of a container does.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use ipnet::IpNet;

use super::folder::{Dead, Folder, Locked, Members, read_member};
use super::ground::Ground;
use super::links::{self, Mac, Peer};
use super::model::{Bridge, DEFAULT_DEVICE, DEFAULT_NETWORK, Member, MemberEndpoint, Pool, mac_of};
use super::namespace::{self, Namespace};
use super::netlink::Socket;
use super::pool::{first_host, free_address, free_subnet, is_host};
use super::ports::{self, Mapping};
use super::services::{Resolver, Services};
use super::yard::Yard;
use super::{NetworkError, doing, rules};
use crate::digest::Digest;
use crate::runtime::monitor::Joined;

/// Where the machine's networks are written down, and what changes the firewall.
#[derive(Debug, Clone)]
pub struct Machine {
    /// `/run/stave`, or a folder like it of the user's.
    pub runtime: PathBuf,
    /// The program `nft`, if there is one.
    pub nft: Option<PathBuf>,
    /// Where an ordinary user's bridges are; root's are in the network namespace of the calling thread.
    pub yard: Option<Yard>,
}

/// What a container wants of the network.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Letters, digits and `-`; unique on the machine.
    pub id: String,
    pub name: String,
    pub places: Vec<Place>,
    pub ports: Vec<Mapping>,
    /// Whom names are asked for that no container has; none where the container asks others directly.
    pub resolver: Option<Resolver>,
}

/// A network to be in.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// None for the default network.
    pub bridge: Option<Bridge>,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub mac: Option<Mac>,
    /// What others call the container there.
    pub names: Vec<String>,
}

/// A network namespace that is in its networks.
#[derive(Debug)]
pub struct Attached {
    pub namespace: OwnedFd,
    pub member: Member,
    /// Must be held for as long as the container lives.
    pub services: Services,
    /// Why it reaches nothing outside, where that is not as it should be.
    pub unconnected: Option<String>,
}

impl Machine {
    /// Makes a namespace that is in these networks.
    ///
    /// # Errors
    /// [`NetworkError`]; then nothing is left of it but bridges.
    pub fn attach(&self, wanted: Wanted) -> Result<Attached, NetworkError> {
        let mut inside = Namespace::make().map_err(doing("make a network namespace"))?;
        let mut host = Ground::new(self.yard.as_ref().map(Yard::make).transpose()?)?;
        let folder = self.folder(&host)?;
        let locked = folder.lock().map_err(doing("lock the networks"))?;
        let Members { living, dead } = locked.members().map_err(doing("read the networks"))?;
        let (mut leaving, gone) = partition(&mut host, dead, &wanted.id)?;
        self.bury(&locked, &mut host, &living, &gone)?;
        let mut members = living;
        // They keep their addresses until then, and have nothing else that counts.
        members.extend(leaving.iter().filter_map(|dead| dead.member.clone()));
        let held = locked
            .hold(&wanted.id)
            .map_err(doing("take part in networks"))?
            .ok_or_else(|| NetworkError::Running(wanted.name.clone()))?;
        let mut changed = false;
        let mut member =
            Member { id: wanted.id, name: wanted.name, endpoints: Vec::new(), ports: Vec::new() };
        for (number, place) in wanted.places.iter().enumerate() {
            let (bridge, made) = self.bridge(&locked, &mut host, place.bridge.as_ref())?;
            changed |= made;
            let mut found = endpoint(&bridge, place, number, &member, &members);
            if found.is_err() && !leaving.is_empty() {
                // What is wanted may be theirs still.
                members.retain(|member| !leaving.iter().any(|dead| dead.id == member.id));
                self.bury(&locked, &mut host, &members, &std::mem::take(&mut leaving))?;
                found = endpoint(&bridge, place, number, &member, &members);
            }
            let endpoint = found?;
            wire(&mut host, &mut inside.route, inside.fd.as_fd(), &bridge, &endpoint)?;
            member.endpoints.push(endpoint);
        }
        route(&mut inside.route, &member)?;
        let (listeners, published) = ports::publish(&wanted.ports, &member, &members)?;
        changed |= published.iter().any(|port| rules::concerns_rules(port.host_ip));
        member.ports = published;
        locked.write_member(&member).map_err(doing("take part in networks"))?;
        members.push(member.clone());
        if changed || !rules_are_there(&host)? {
            self.apply_rules(&locked, &mut host, &members)?;
        }
        let services = Services {
            host: namespace::own().map_err(doing("open the network namespace"))?,
            ground: host.to_hold().map_err(doing("open the network namespace"))?,
            namespace: inside.fd.try_clone().map_err(doing("open the network namespace"))?,
            folder: folder.handle().map_err(doing("open the networks' folder"))?,
            held,
            id: member.id.clone(),
            listeners,
            resolver: wanted.resolver,
        };
        let leads_out = member.endpoints.iter().any(|endpoint| !endpoint.internal);
        let unconnected = host.unconnected().filter(|_| leads_out).map(str::to_owned);
        Ok(Attached { namespace: inside.fd, member, services, unconnected })
    }

    /// Brings a running container into one more network.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn connect(
        &self,
        id: &str,
        namespace: BorrowedFd<'_>,
        place: &Place,
    ) -> Result<MemberEndpoint, NetworkError> {
        let mut host = self.ground()?.ok_or(NetworkError::NotAMember)?;
        let folder = self.folder(&host)?;
        let locked = folder.lock().map_err(doing("lock the networks"))?;
        let mut members = self.members(&locked, &mut host)?;
        let at = members.iter().position(|member| member.id == id).ok_or(NetworkError::NotAMember)?;
        let (bridge, made) = self.bridge(&locked, &mut host, place.bridge.as_ref())?;
        let mut member = members[at].clone();
        if member.endpoints.iter().any(|endpoint| endpoint.bridge == bridge.device) {
            return Err(NetworkError::Connected(bridge.network));
        }
        let used = |number: &usize| {
            let name = format!("eth{number}");
            !member.endpoints.iter().any(|endpoint| endpoint.joined.device == name)
        };
        let number = (0..).find(used).expect("a container is in fewer networks than there are numbers");
        let endpoint = endpoint(&bridge, place, number, &member, &members)?;
        let mut inside =
            namespace::within(namespace, Socket::route).map_err(doing("enter the container's network"))?;
        wire(&mut host, &mut inside, namespace, &bridge, &endpoint)?;
        member.endpoints.push(endpoint.clone());
        route(&mut inside, &member)?;
        locked.write_member(&member).map_err(doing("take part in networks"))?;
        members[at] = member;
        if made || !rules_are_there(&host)? {
            self.apply_rules(&locked, &mut host, &members)?;
        }
        Ok(endpoint)
    }

    /// Takes a running container out of a network.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn disconnect(&self, id: &str, namespace: BorrowedFd<'_>, network: &str) -> Result<(), NetworkError> {
        let mut host = self.ground()?.ok_or(NetworkError::NotAMember)?;
        let folder = self.folder(&host)?;
        let locked = folder.lock().map_err(doing("lock the networks"))?;
        let mut members = self.members(&locked, &mut host)?;
        let at = members.iter().position(|member| member.id == id).ok_or(NetworkError::NotAMember)?;
        let member = &mut members[at];
        let endpoint = member
            .endpoints
            .iter()
            .position(|endpoint| endpoint.joined.network == network)
            .ok_or_else(|| NetworkError::NotConnected(network.to_owned()))?;
        let endpoint = member.endpoints.remove(endpoint);
        links::delete(&mut host.route, &endpoint.outside).map_err(doing("take a device away"))?;
        let mut inside =
            namespace::within(namespace, Socket::route).map_err(doing("enter the container's network"))?;
        route(&mut inside, member)?;
        let concerned = !member.ports.is_empty();
        locked.write_member(member).map_err(doing("leave a network"))?;
        if concerned {
            self.apply_rules(&locked, &mut host, &members)?;
        }
        Ok(())
    }

    /// Takes a network's bridge away, if it was ever made.
    ///
    /// # Errors
    /// [`NetworkError::Active`] while somebody is in it.
    pub fn remove(&self, bridge: &Bridge) -> Result<(), NetworkError> {
        let Some(mut host) = self.ground()? else { return Ok(()) };
        let folder = self.folder(&host)?;
        let locked = folder.lock().map_err(doing("lock the networks"))?;
        let members = self.members(&locked, &mut host)?;
        let inside = |member: &&Member| member.endpoints.iter().any(|one| one.bridge == bridge.device);
        let active: Vec<String> = members.iter().filter(inside).map(|member| member.name.clone()).collect();
        if !active.is_empty() {
            return Err(NetworkError::Active { network: bridge.network.clone(), members: active });
        }
        let known = locked.bridge(&bridge.device).map_err(doing("read the networks"))?;
        // A device that was there before us, or is another network's by now, stays.
        if known.is_some_and(|known| known.network_id == bridge.network_id) {
            links::delete(&mut host.route, &bridge.device).map_err(doing("take a bridge away"))?;
            locked.forget_bridge(&bridge.device).map_err(doing("forget a bridge"))?;
            if rules_are_there(&host)? {
                self.apply_rules(&locked, &mut host, &members)?;
            }
        }
        Ok(())
    }

    /// Gives a container another name, in the networks where it is known by one.
    ///
    /// # Errors
    /// What the file system gives. A container that does not run is fine.
    pub fn rename(&self, id: &str, new: &str) -> Result<(), NetworkError> {
        let Some(host) = self.ground()? else { return Ok(()) };
        let folder = self.folder(&host)?;
        let locked = folder.lock().map_err(doing("lock the networks"))?;
        let handle = folder.handle().map_err(doing("open the networks' folder"))?;
        let Some(mut member) = read_member(&handle, id).map_err(doing("read the networks"))? else {
            return Ok(());
        };
        let old = std::mem::replace(&mut member.name, new.to_owned()).to_lowercase();
        for endpoint in &mut member.endpoints {
            if let Some(name) = endpoint.names.iter_mut().find(|name| **name == old) {
                *name = new.to_lowercase();
            }
        }
        locked.write_member(&member).map_err(doing("change a name"))
    }

    /// A container's networks and ports while it runs.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn member(&self, id: &str) -> Result<Option<Member>, NetworkError> {
        let Some(host) = self.ground()? else { return Ok(None) };
        let folder = self.folder(&host)?.handle().map_err(doing("open the networks' folder"))?;
        match super::folder::is_id(id) && super::folder::is_alive(&folder, id) {
            true => read_member(&folder, id).map_err(doing("read the networks")),
            false => Ok(None),
        }
    }

    /// Everybody who is in a network at the moment.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn all_members(&self) -> Result<Vec<Member>, NetworkError> {
        // Whoever only looks makes nothing, and may not be able to.
        let Some(mut host) = self.ground()? else { return Ok(Vec::new()) };
        let used = |source| NetworkError::Io(format!("use `{}`", self.runtime.display()), source);
        let folder = Folder::at(&self.runtime, host.inode().map_err(used)?);
        if !folder.is_there().map_err(used)? {
            return Ok(Vec::new());
        }
        let locked = folder.lock().map_err(doing("lock the networks"))?;
        self.members(&locked, &mut host)
    }

    /// The subnets that a new network must not overlap: where this machine's routes lead, and other bridges.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn subnets_in_use(&self) -> Result<Vec<IpNet>, NetworkError> {
        let mut taken = self.routes()?;
        if let Some(host) = self.ground()? {
            let folder = self.folder(&host)?;
            let locked = folder.lock().map_err(doing("lock the networks"))?;
            for bridge in locked.bridges().map_err(doing("read the networks"))? {
                taken.extend([bridge.ipv4, bridge.ipv6].into_iter().flatten().map(|pool| pool.subnet));
            }
        }
        Ok(taken)
    }

    /// The default network as it is, or as it would be made now.
    ///
    /// # Errors
    /// [`NetworkError::NoSubnet`], and what the kernel gives.
    pub fn default_bridge(&self) -> Result<Bridge, NetworkError> {
        let Some(mut host) = self.ground()? else {
            let subnet = IpNet::V4(free_subnet(&self.routes()?).ok_or(NetworkError::NoSubnet)?);
            return Ok(default_bridge_at(subnet, first_host(&subnet)));
        };
        let folder = self.folder(&host)?;
        let locked = folder.lock().map_err(doing("lock the networks"))?;
        self.default_of(&locked, &mut host)
    }

    /// Whether bridges are in a namespace of the user's, from which the machine's own addresses are not reached.
    pub fn is_apart(&self) -> bool {
        self.yard.is_some()
    }

    /// Where bridges are, if they can be anywhere yet.
    fn ground(&self) -> Result<Option<Ground>, NetworkError> {
        match &self.yard {
            None => Ground::new(None).map(Some),
            Some(yard) => yard.find()?.map(|found| Ground::new(Some(found))).transpose(),
        }
    }

    /// Where routes lead, of the machine and of where bridges are.
    fn routes(&self) -> Result<Vec<IpNet>, NetworkError> {
        let listing = || doing("list the routes");
        let mut taken = Socket::route().and_then(|mut host| links::routes(&mut host)).map_err(listing())?;
        if let (true, Some(mut ground)) = (self.is_apart(), self.ground()?) {
            taken.extend(links::routes(&mut ground.route).map_err(listing())?);
        }
        Ok(taken)
    }

    fn folder(&self, host: &Ground) -> Result<Folder, NetworkError> {
        let opened = host.inode().and_then(|inode| Folder::open(&self.runtime, inode));
        opened.map_err(doing(format!("use `{}`", self.runtime.display())))
    }

    /// Takes away what dead containers left: whose ports led to them would lead to whoever has their address next.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn tidy(&self) -> Result<(), NetworkError> {
        self.all_members().map(drop)
    }

    /// Everybody who lives. Nothing is left of the dead afterwards.
    fn members(&self, locked: &Locked<'_>, host: &mut Ground) -> Result<Vec<Member>, NetworkError> {
        let Members { living, dead } = locked.members().map_err(doing("read the networks"))?;
        self.bury(locked, host, &living, &dead)?;
        Ok(living)
    }

    /// Has devices and rules of the dead gone, and only then forgets them: whoever is killed on the way, or fails later,
    /// leaves nothing that nobody knows of.
    fn bury(
        &self,
        locked: &Locked<'_>,
        host: &mut Ground,
        living: &[Member],
        dead: &[Dead],
    ) -> Result<(), NetworkError> {
        for device in dead.iter().flat_map(Dead::devices) {
            links::delete(&mut host.route, device).map_err(doing("take a device away"))?;
        }
        if dead.iter().any(Dead::had_ports) && rules_are_there(host)? {
            self.apply_rules(locked, host, living)?;
        }
        for Dead { id, .. } in dead {
            locked.forget(id).map_err(doing("forget a container"))?;
        }
        Ok(())
    }

    /// The bridge, which is there and up afterwards, and whether anything was done for that.
    fn bridge(
        &self,
        locked: &Locked<'_>,
        host: &mut Ground,
        wanted: Option<&Bridge>,
    ) -> Result<(Bridge, bool), NetworkError> {
        let bridge = match wanted {
            Some(bridge) => bridge.clone(),
            None => self.default_of(locked, host)?,
        };
        let known = locked.bridge(&bridge.device).map_err(doing("read the networks"))?;
        let found = links::find(&mut host.route, &bridge.device).map_err(doing("look for a bridge"))?;
        if found.is_some() && known.as_ref() == Some(&bridge) {
            return Ok((bridge, false));
        }
        let doing = |what: &str| doing::<std::io::Error>(format!("{what} the bridge `{}`", bridge.device));
        let index = match found {
            Some(index) => index,
            None => {
                let unique = Digest::of(bridge.network_id.as_bytes()).hex();
                let mut mac = [0x02, 0x42, 0, 0, 0, 0];
                for (byte, digits) in mac[2..].iter_mut().zip(unique.as_bytes().chunks(2)) {
                    let digits = std::str::from_utf8(digits).expect("hexadecimal digits");
                    *byte = u8::from_str_radix(digits, 16).expect("hexadecimal digits");
                }
                links::add_bridge(&mut host.route, &bridge.device, mac, bridge.mtu).map_err(doing("make"))?
            }
        };
        host.within(|| {
            set_up_bridge(&bridge);
            match bridge.internal {
                true => Ok(()),
                false => forward(bridge.ipv6.is_some()),
            }
        })?;
        for pool in [&bridge.ipv4, &bridge.ipv6].into_iter().flatten() {
            let address =
                IpNet::new(pool.gateway, pool.subnet.prefix_len()).expect("its own subnet's length");
            links::add_address(&mut host.route, index, address).map_err(doing("give an address to"))?;
        }
        links::set_up(&mut host.route, index).map_err(doing("bring up"))?;
        locked.write_bridge(&bridge).map_err(doing("remember"))?;
        Ok((bridge, true))
    }

    fn apply_rules(
        &self,
        locked: &Locked<'_>,
        host: &mut Ground,
        members: &[Member],
    ) -> Result<(), NetworkError> {
        let mut there = Vec::new();
        for bridge in locked.bridges().map_err(doing("read the networks"))? {
            match links::find(&mut host.route, &bridge.device).map_err(doing("look for a bridge"))? {
                Some(_) => there.push(bridge),
                // Somebody took it away; whoever needs it makes it again.
                None => locked.forget_bridge(&bridge.device).map_err(doing("forget a bridge"))?,
            }
        }
        let table = rules::table(&there, members);
        host.within(|| rules::apply(self.nft.as_deref(), &table))
    }

    /// The default network as it is, or as it would be made now.
    fn default_of(&self, locked: &Locked<'_>, host: &mut Ground) -> Result<Bridge, NetworkError> {
        if let Some(known) = locked.bridge(DEFAULT_DEVICE).map_err(doing("read the networks"))? {
            return Ok(known);
        }
        let found = links::find(&mut host.route, DEFAULT_DEVICE).map_err(doing("look for a bridge"))?;
        if let Some(index) = found {
            // What is known of it was lost, but it is there, with an address.
            let addresses = links::addresses(&mut host.route, index).map_err(doing("list addresses"))?;
            if let Some(address) = addresses.into_iter().find(|address| address.addr().is_ipv4()) {
                return Ok(default_bridge_at(address.trunc(), address.addr()));
            }
        }
        let mut taken = self.routes()?;
        for bridge in locked.bridges().map_err(doing("read the networks"))? {
            taken.extend(bridge.ipv4.map(|pool| pool.subnet));
        }
        let subnet = IpNet::V4(free_subnet(&taken).ok_or(NetworkError::NoSubnet)?);
        Ok(default_bridge_at(subnet, first_host(&subnet)))
    }
}

/// Of the dead, those whose devices the kernel is about to take away, and all others. To take a device away oneself is
/// to wait until no processor looks at it any more, some twenty milliseconds; so whoever only wants to be in a network
/// leaves it to the kernel. Not where `id` is there again, whose devices have those names, and not where ports led there.
fn partition(host: &mut Ground, dead: Vec<Dead>, id: &str) -> Result<(Vec<Dead>, Vec<Dead>), NetworkError> {
    let (mut leaving, mut gone) = (Vec::new(), Vec::new());
    for one in dead {
        let mut there = false;
        if one.id != id && !one.had_ports() {
            for device in one.devices() {
                let found = links::find(&mut host.route, device).map_err(doing("look for a device"))?;
                there |= found.is_some();
            }
        }
        if there { &mut leaving } else { &mut gone }.push(one);
    }
    Ok((leaving, gone))
}

/// Whether the firewall has the table.
fn rules_are_there(host: &Ground) -> Result<bool, NetworkError> {
    host.within(|| Ok(rules::is_there()))
}

/// The default network, in a subnet.
fn default_bridge_at(subnet: IpNet, gateway: IpAddr) -> Bridge {
    Bridge {
        device: DEFAULT_DEVICE.to_owned(),
        network: DEFAULT_NETWORK.to_owned(),
        network_id: Digest::of(b"stave network bridge").hex(),
        ipv4: Some(Pool { subnet, gateway, range: None }),
        ipv6: None,
        internal: false,
        names: false,
        mtu: None,
    }
}

/// Where what a member would have is free, and what it is called.
fn endpoint(
    bridge: &Bridge,
    place: &Place,
    number: usize,
    member: &Member,
    others: &[Member],
) -> Result<MemberEndpoint, NetworkError> {
    let used: HashSet<IpAddr> = others
        .iter()
        .flat_map(|other| &other.endpoints)
        .chain(&member.endpoints)
        .filter(|endpoint| endpoint.bridge == bridge.device)
        .flat_map(MemberEndpoint::addresses)
        .collect();
    let four = address(bridge, bridge.ipv4.as_ref(), place.ipv4.map(IpAddr::V4), &used)?;
    let six = address(bridge, bridge.ipv6.as_ref(), place.ipv6.map(IpAddr::V6), &used)?;
    let mac = place.mac.or(four.map(mac_of)).or(six.map(mac_of)).unwrap_or([0x02, 0x42, 0, 0, 0, 0]);
    let length = |pool: &Option<Pool>| pool.as_ref().map_or(0, |pool| pool.subnet.prefix_len());
    let outside = &Digest::of(format!("{} {}", member.id, bridge.device).as_bytes()).hex()[..11];
    let joined = Joined {
        network: bridge.network.clone(),
        network_id: bridge.network_id.clone(),
        device: format!("eth{number}"),
        ipv4: match four {
            Some(IpAddr::V4(address)) => Some((address, length(&bridge.ipv4))),
            _ => None,
        },
        gateway: match bridge.ipv4.as_ref().map(|pool| pool.gateway) {
            Some(IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        },
        ipv6: match six {
            Some(IpAddr::V6(address)) => Some((address, length(&bridge.ipv6))),
            _ => None,
        },
        gateway6: match bridge.ipv6.as_ref().map(|pool| pool.gateway) {
            Some(IpAddr::V6(gateway)) => Some(gateway),
            _ => None,
        },
        mac,
    };
    let mut names: Vec<String> = Vec::new();
    for name in place.names.iter().filter(|_| bridge.names).map(|name| name.to_lowercase()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let (bridge, internal) = (bridge.device.clone(), bridge.internal);
    Ok(MemberEndpoint { bridge, outside: format!("veth{outside}"), internal, joined, names })
}

fn address(
    bridge: &Bridge,
    pool: Option<&Pool>,
    wanted: Option<IpAddr>,
    used: &HashSet<IpAddr>,
) -> Result<Option<IpAddr>, NetworkError> {
    let network = || bridge.network.clone();
    match (pool, wanted) {
        (None, None) => Ok(None),
        (None, Some(address)) => Err(NetworkError::NotInSubnet { network: network(), address }),
        (Some(pool), Some(address)) if !is_host(&pool.subnet, address) => {
            Err(NetworkError::NotInSubnet { network: network(), address })
        }
        (Some(pool), Some(address)) => match address == pool.gateway || used.contains(&address) {
            true => Err(NetworkError::AddressInUse(address)),
            false => Ok(Some(address)),
        },
        (Some(pool), None) => match free_address(pool, used) {
            Some(address) => Ok(Some(address)),
            None => Err(NetworkError::NoAddress(network())),
        },
    }
}

/// Makes the pair of devices and gives the inner one its addresses.
fn wire(
    host: &mut Ground,
    inside: &mut Socket,
    namespace: BorrowedFd<'_>,
    bridge: &Bridge,
    endpoint: &MemberEndpoint,
) -> Result<(), NetworkError> {
    let doing = |what: &str| doing::<std::io::Error>(format!("{what} the container's network device"));
    let missing = || std::io::Error::from_raw_os_error(libc::ENODEV);
    let device = &endpoint.joined.device;
    let master = links::find(&mut host.route, &bridge.device).and_then(|found| found.ok_or_else(missing));
    let master = master.map_err(doing("find the bridge of"))?;
    let peer = Peer { name: device, namespace, mac: endpoint.joined.mac };
    let mut made = links::add_pair(&mut host.route, &endpoint.outside, master, bridge.mtu, &peer);
    if made.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EEXIST)) {
        // The same container's, of a moment ago: the kernel is about to take it away.
        links::delete(&mut host.route, &endpoint.outside).map_err(doing("replace"))?;
        made = links::add_pair(&mut host.route, &endpoint.outside, master, bridge.mtu, &peer);
    }
    made.map_err(doing("make"))?;
    host.within(|| {
        set_ipv6(&endpoint.outside, false);
        Ok(())
    })?;
    let outside = links::find(&mut host.route, &endpoint.outside).and_then(|found| found.ok_or_else(missing));
    links::set_up(&mut host.route, outside.map_err(doing("find"))?).map_err(doing("bring up"))?;
    let index = links::find(inside, device).and_then(|found| found.ok_or_else(missing));
    let index = index.map_err(doing("find"))?;
    if bridge.ipv6.is_some() {
        namespace::within(namespace, || {
            set_ipv6(device, true);
            Ok(())
        })
        .map_err(doing("enter the namespace of"))?;
    }
    links::set_up(inside, index).map_err(doing("bring up"))?;
    let four = endpoint.joined.ipv4.map(|(address, length)| IpNet::new(address.into(), length));
    let six = endpoint.joined.ipv6.map(|(address, length)| IpNet::new(address.into(), length));
    for address in [four, six].into_iter().flatten() {
        let address = address.expect("its subnet's own length");
        links::add_address(inside, index, address).map_err(doing("give an address to"))?;
    }
    Ok(())
}

/// Sends what leaves the container through the first network that has a way out. A route that is there stays; one
/// of a device that is gone went with it.
fn route(inside: &mut Socket, member: &Member) -> Result<(), NetworkError> {
    let open = || member.endpoints.iter().filter(|endpoint| !endpoint.internal);
    let four = open().find_map(|one| Some((one, IpAddr::V4(one.joined.gateway?))));
    let six = open().find_map(|one| Some((one, IpAddr::V6(one.joined.gateway6?))));
    for (endpoint, gateway) in [four, six].into_iter().flatten() {
        let index = links::find(inside, &endpoint.joined.device).map_err(doing("find a device"))?;
        if let Some(index) = index {
            links::add_default_route(inside, gateway, index).map_err(doing("set the default route"))?;
        }
    }
    Ok(())
}

/// What the kernel shall and shall not do on a bridge. Where `/proc/sys` cannot be written it is as it is.
fn set_up_bridge(bridge: &Bridge) {
    set_ipv6(&bridge.device, bridge.ipv6.is_some());
    // Packets that claim to come from elsewhere end here.
    let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{}/rp_filter", bridge.device), "1");
}

/// A network without IPv6 has no address of it, not even a link's own (CVE-2024-32473).
fn set_ipv6(device: &str, on: bool) {
    let folder = format!("/proc/sys/net/ipv6/conf/{device}");
    let _ = std::fs::write(format!("{folder}/accept_ra"), "0");
    let _ = std::fs::write(format!("{folder}/disable_ipv6"), if on { "0" } else { "1" });
}

/// Has the machine pass on packets that are for others.
fn forward(ipv6: bool) -> Result<(), NetworkError> {
    set_forwarding("/proc/sys/net/ipv4/ip_forward")?;
    let all = "/proc/sys/net/ipv6/conf/all/forwarding";
    if !ipv6 || std::fs::read(all).is_ok_and(|value| value.trim_ascii() == b"1") {
        return Ok(());
    }
    // A machine that forwards does not hear routers any more, unless its devices are told to.
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let accept = entry.path().join("accept_ra");
        if std::fs::read(&accept).is_ok_and(|value| value.trim_ascii() == b"1") {
            let _ = std::fs::write(accept, "2");
        }
    }
    set_forwarding(all)
}

fn set_forwarding(path: &str) -> Result<(), NetworkError> {
    let is_on = || std::fs::read(path).is_ok_and(|value| value.trim_ascii() != b"0");
    match is_on() {
        true => Ok(()),
        false => std::fs::write(path, "1").map_err(doing(format!("turn on forwarding (`{path}`)"))),
    }
}

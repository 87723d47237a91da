// Sorting of tables, methods switched on and off in all charts, and the placement view. No library but Bokeh's charts.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const model = (name) => {
    for (const doc of Bokeh.documents) {
      const found = doc.get_model_by_name(name);
      if (found !== null) return found;
    }
    return null;
  };
  const element = (id) => document.getElementById(id);

  // --- tables --------------------------------------------------------------------------------------------------
  const key = (row, column) => {
    const cell = row.cells[column];
    const sort = cell.dataset.sort;
    if (sort === undefined) return cell.textContent;
    return sort === "" ? null : Number(sort);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  const sortBy = (header) => {
    const table = header.closest("table");
    const column = header.cellIndex;
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
      return descending ? compare(b, a) : compare(a, b);
    });
    body.append(...rows.map(([, row]) => row));
  };
  for (const button of document.querySelectorAll("table.sortable th button")) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }

  // --- methods -------------------------------------------------------------------------------------------------
  const showMethods = () => {
    for (const box of document.querySelectorAll("nav.methods input")) {
      for (const name of data.glyphs[Number(box.dataset.method)]) {
        const renderer = model(name);
        if (renderer !== null) renderer.visible = box.checked;
      }
    }
  };

  // --- printing ------------------------------------------------------------------------------------------------
  // Charts are as wide as the window, not as the paper: what is printed are pictures of them, as they are now.
  const showPrinted = () => {
    hidePrinted();
    for (const doc of Bokeh.documents) {
      for (const view of doc.views_manager.roots) {
        const figure = view.el.closest("figure");
        if (figure === null) continue; // what stands under the pointer is a root, too
        const { canvas } = view.export("png");
        canvas.className = "printed";
        figure.append(canvas);
      }
    }
    document.body.classList.add("printing");
  };
  const hidePrinted = () => {
    document.body.classList.remove("printing");
    for (const canvas of document.querySelectorAll("canvas.printed")) canvas.remove();
  };

  // --- placements ----------------------------------------------------------------------------------------------
  const options = (select, names, chosen) => {
    select.replaceChildren(...names.map((name, i) => new Option(name, String(i), false, i === chosen)));
  };
  const bytes = (n) => {
    const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let unit = 0;
    while (n >= 1000 && unit < units.length - 1) { n /= 1000; unit += 1; }
    return `${unit ? Number(n.toPrecision(3)) : n} ${units[unit]}`;
  };
  const duration = (ns) => {
    const units = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"]];
    for (const [size, name] of units) if (ns >= size) return `${Number((ns / size).toPrecision(4))} ${name}`;
    return `${Number(ns.toPrecision(4))} ns`;
  };
  const held = (hex, i) => (parseInt(hex.substr(2 * (i >> 3), 2), 16) >> (7 - (i & 7))) & 1;
  const shades = ["#eef0f2", "#9db4cc", "#6d8fb5", "#436a99", "#26487a", "#122b57"];

  const view = { instance: null, placement: null };

  const showUsers = () => {
    const { users } = view.instance;
    const before = users.before_ns.map((ns) => ns / 1e6);
    const after = view.placement.after_ns.map((ns) => ns / 1e6);
    const order = before.map((_, i) => i).sort((a, b) => before[b] - before[a] || after[b] - after[a]);
    const rank = [];
    order.forEach((user, place) => { rank[user] = place + 1; });
    const saved = before.map((ms, i) => (ms > 0 ? (ms - after[i]) / ms : 0));
    // Whole tenths around the data of all placements shown of this instance would hide what differs between users.
    const low = Math.floor(10 * Math.min(1, ...saved)) / 10;
    const high = Math.max(Math.ceil(10 * Math.max(0, ...saved)) / 10, low + 0.1);
    model("view-colors").setv({ low, high });
    model("view-latency").y_range.setv({ start: 0, end: 1.2 * Math.max(...before, 1e-9) }); // room for the legend
    model("view-users").data = { name: users.name, x: users.x, y: users.y, rank, before, after, saved };
  };

  const showStations = () => {
    const { stations, tokens } = view.instance;
    const used = view.placement.used_bytes;
    const chosen = Number(element("choose-station").value) - 1;
    const share = used.map((n, i) => (stations.capacity_bytes[i] ? n / stations.capacity_bytes[i] : 0));
    const saves = view.placement.saving_ns.map((ns) => (tokens ? ns / tokens : 0));
    model("view-stations").data = {
      name: stations.name, x: stations.x, y: stations.y, share,
      used: used.map(bytes), capacity: stations.capacity_bytes.map(bytes), saves: saves.map((ns) => ns / 1e6),
      line: stations.name.map((_, i) => (i === chosen ? "#D55E00" : "#1f2328")),
    };
    const experts = stations.name.map((_, n) =>
      view.placement.cached.reduce((sum, rows, m) => {
        const count = view.instance.models[m].layers * view.instance.models[m].experts;
        for (let i = 0; i < count; i += 1) sum += held(rows[n], i);
        return sum;
      }, 0));
    element("stations").tBodies[0].replaceChildren(...stations.name.map((name, n) => {
      const row = document.createElement("tr");
      const cells = [
        [name], [bytes(used[n]), used[n]], [bytes(stations.capacity_bytes[n]), stations.capacity_bytes[n]],
        [`${Math.floor(100 * share[n])} %`, share[n]], [experts[n].toLocaleString("en"), experts[n]],
        [duration(saves[n]), saves[n]],
      ];
      for (const [text, sort] of cells) {
        const cell = row.insertCell();
        cell.textContent = text;
        if (sort !== undefined) cell.dataset.sort = sort;
      }
      return row;
    }));
  };

  const showCache = () => {
    const { stations, models } = view.instance;
    const chosen = Number(element("choose-station").value) - 1;
    const m = Number(element("choose-model").value);
    const { layers, experts } = models[m];
    const rows = view.placement.cached[m];
    const columns = { expert: [], layer: [], copies: [], where: [], color: [] };
    const cached = [];
    for (let i = 0; i < layers * experts; i += 1) {
      const holders = [];
      rows.forEach((hex, n) => { if (held(hex, i)) holders.push(n); });
      const shown = chosen < 0 ? holders.length : Number(holders.includes(chosen));
      cached.push(shown);
      columns.expert.push(i % experts);
      columns.layer.push(Math.floor(i / experts));
      columns.copies.push(holders.length);
      columns.where.push(holders.length ? holders.map((n) => stations.name[n]).join(", ") : "no station");
      columns.color.push(chosen < 0
        ? shades[shown && Math.max(1, Math.ceil(((shades.length - 1) * shown) / stations.name.length))]
        : shades[shown ? 4 : 0]);
    }
    model("view-cells").data = columns;
    const plot = model("view-cache");
    plot.x_range.setv({ start: -0.6, end: experts - 0.4 });
    plot.y_range.setv({ start: layers - 0.4, end: -0.6 });
    element("cache-caption").textContent = chosen < 0
      ? "What is cached, in stronger colour on more stations"
      : `What ${stations.name[chosen]} caches: ${cached.filter(Boolean).length} of ${layers * experts} experts`;
  };

  const showSummary = () => {
    const { tokens, baseline_ns: baseline } = view.instance;
    const cost = view.placement.latency_ns;
    const parts = [];
    if (tokens) parts.push(`${duration(baseline / tokens)} per token with ${view.instance.reference}, ${duration(cost / tokens)} with this placement`);
    if (baseline) parts.push(`${((100 * (baseline - cost)) / baseline).toFixed(2)} % saved`);
    parts.push(view.placement.gap, view.placement.note);
    element("view-summary").replaceChildren(...parts.filter(Boolean).map((text) => {
      const span = document.createElement("span");
      span.textContent = text;
      return span;
    }));
  };

  const choosePlacement = () => {
    view.placement = view.instance.placements[Number(element("choose-method").value)];
    showUsers();
    showStations();
    showCache();
    showSummary();
  };
  const chooseInstance = () => {
    view.instance = data.instances[Number(element("choose-instance").value)];
    options(element("choose-method"), view.instance.placements.map((placement) => placement.label), 0);
    options(element("choose-station"), ["all stations", ...view.instance.stations.name], 0);
    options(element("choose-model"), view.instance.models.map((each) => each.name), 0);
    element("model-label").hidden = view.instance.models.length < 2;
    element("map-caption").textContent = view.instance.is_map
      ? "Stations and users, positions in metres; users in stronger colour save more"
      : "Stations and users: no positions are known, near means a short time";
    for (const axis of [...model("view-map").below, ...model("view-map").left]) {
      if ("axis_label" in axis) axis.setv({ visible: view.instance.is_map });
    }
    choosePlacement();
  };
  const startView = () => {
    // The first that is shown is the largest one with positions: a map says most.
    const extent = (instance) => (instance.is_map ? instance.stations.name.length * instance.users.name.length : 0);
    const first = data.instances.reduce((best, each, i) => (extent(each) > extent(data.instances[best]) ? i : best), 0);
    options(element("choose-instance"), data.instances.map((instance) => `${instance.set}: ${instance.name}`), first);
    element("choose-instance").addEventListener("change", chooseInstance);
    element("choose-method").addEventListener("change", choosePlacement);
    for (const id of ["choose-station", "choose-model"]) {
      element(id).addEventListener("change", () => { showStations(); showCache(); });
    }
    const stations = model("view-stations");
    stations.selected.properties.indices.change.connect(() => {
      const [index] = stations.selected.indices;
      element("choose-station").value = String(index === undefined ? 0 : index + 1);
      showStations();
      showCache();
    });
    chooseInstance();
  };

  const begin = () => {
    const drawn = window.Bokeh && Bokeh.documents.length > 0 && (!data.instances.length || model("view-cells") !== null);
    if (!drawn) {
      setTimeout(begin, 50);
      return;
    }
    for (const box of document.querySelectorAll("nav.methods input")) box.addEventListener("change", showMethods);
    showMethods(); // a browser may remember boxes from before a reload
    if (data.instances.length) startView();
    window.addEventListener("beforeprint", showPrinted);
    window.addEventListener("afterprint", hidePrinted);
    document.body.dataset.ready = "yes";
  };
  begin();
})();

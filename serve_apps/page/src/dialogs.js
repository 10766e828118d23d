// Dialogs, the theme and the keys.

const $ = (selector) => document.querySelector(selector);

let asking = null;

/** Ask for the server's token; resolves with it. Several callers share one question. */
export function askToken() {
  asking ??= new Promise((resolve) => {
    const [dialog, input] = [$("#ask-token"), $("#token")];
    input.value = "";
    dialog.onclose = () => {
      if (!input.value) return dialog.showModal(); // it was escaped
      asking = null;
      resolve(input.value);
    };
    dialog.showModal();
  });
  return asking;
}

/** Dark or light: as the system prefers until the button is used, then as chosen. */
export function themes() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    document.documentElement.dataset.theme = localStorage.getItem("ferry-theme") ?? (dark.matches ? "dark" : "light");
  };
  apply();
  dark.addEventListener("change", apply);
  $("#theme").onclick = () => {
    localStorage.setItem("ferry-theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    apply();
  };
}

export function about() {
  for (const button of [$("#help"), $("#limits")]) button.onclick = () => $("#about").showModal();
  $("#about").onclick = (event) => event.target === $("#about") && $("#about").close(); // on the backdrop
}

/** Let keys do what `actions` say, {key: function}, unless something is being typed or the keys are off. */
export function keys(actions) {
  const on = $("#shortcuts");
  on.checked = localStorage.getItem("ferry-keys") !== "off";
  on.onchange = () => localStorage.setItem("ferry-keys", on.checked ? "on" : "off");
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input:not([type=checkbox]), select, textarea, video");
    if (typing || !on.checked || event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

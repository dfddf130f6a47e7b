// Two comforts; every page works without them.
(function () {
  "use strict";
  // Deliveries under way, renewed when something changes.
  var live = document.getElementById("live");
  if (live && window.EventSource) {
    var source = new EventSource(live.getAttribute("data-events"));
    source.addEventListener("deliveries", function (event) {
      // A fragment made and escaped by the server.
      if (!live.contains(document.activeElement)) live.innerHTML = event.data;
    });
    window.addEventListener("pagehide", function () { source.close(); });
  }
  // The setup link carries its word behind a '#', which browsers do not send.
  var token = document.getElementById("token");
  if (token && !token.value && location.hash.length > 1) {
    token.value = decodeURIComponent(location.hash.slice(1));
    var password = document.getElementById("password");
    if (password) password.focus();
  }
})();

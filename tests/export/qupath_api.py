"""What the scripts may use of QuPath: classes and methods that 0.5, 0.6 and 0.7 have alike.

Looked up in QuPath's sources and in the documentation of its API (0.5.1 and 0.6.0; qupath-fxtras
0.1, which came with 0.5, for the dialogs). A method stands here only if its parameters are those
that the scripts give it. Add one after looking it up, not to please a test.
"""

from __future__ import annotations

CLASSES = {
    # Full name: methods that are called on the class itself.
    "com.google.gson.Gson": {"fromJson"},
    "javafx.application.Platform": {"runLater"},
    "javafx.scene.control.MenuItem": set(),
    "qupath.fx.dialogs.Dialogs": {"showErrorMessage", "showYesNoDialog"},
    "qupath.fx.dialogs.FileChoosers": {"promptForDirectory"},
    "qupath.lib.color.ColorMaps": {"getColorMaps"},
    "qupath.lib.common.ColorTools": {"packRGB"},
    "qupath.lib.common.GeneralTools": {"toPath"},
    "qupath.lib.gui.tools.MeasurementMapper": set(),
    "qupath.lib.io.PathIO": {"readObjects"},
    "qupath.lib.objects.classes.PathClass": {"fromString"},
    "qupath.lib.projects.Projects": {"getBaseDirectory"},
}

SCRIPTING = {
    # Static methods of qupath.lib.gui.scripting.QPEx and of QP, which it extends.
    "exportObjectsToGeoJson", "fireHierarchyUpdate", "getAnnotationObjects",
    "getCurrentImageData", "getCurrentViewer",
    "getDetectionObjects", "getProject", "getProjectEntry", "getQuPath", "getSelectedObjects",
}  # fmt: skip

INSTANCES = {
    "ImageData": {"getHierarchy", "getServer"},
    "ImageServer": {
        "close", "getHeight", "getMetadata", "getPixelCalibration", "getURIs", "getWidth",
    },
    "ImageServerMetadata": {"getName"},
    "MeasurementList": {"asMap", "get", "put", "putAll"},
    "MeasurementMapper": {"setDisplayMaxValue", "setDisplayMinValue"},
    "Menu, MenuItem": {"getItems", "setOnAction"},
    "OverlayOptions": {"setMeasurementMapper"},
    "PathClass": {"setColor"},
    "PathObject": {
        "getID", "getMeasurementList", "getName", "getPathClass", "getROI", "hasROI",
        "isAnnotation", "isCell", "isDetection", "isLocked", "isTile", "setLocked", "setPathClass",
    },
    "PathObjectHierarchy": {
        "addObjects", "getAnnotationObjects", "getDetectionObjects", "removeObjects",
    },
    "PixelCalibration": {"getAveragedPixelSizeMicrons"},
    "Project": {"getImageList", "syncChanges"},
    "ProjectImageEntry": {"getImageName", "getURIs", "readImageData", "saveImageData"},
    "QuPathGUI": {"getMenu", "runScript"},
    "QuPathViewer": {"getOverlayOptions", "repaintEntireImage"},
    "ROI": {"contains", "getCentroidX", "getCentroidY", "isArea"},
}  # fmt: skip

JAVA_AND_GROOVY = {
    # java.io, java.lang, java.nio, java.util, and what Groovy adds to them.
    "add", "any", "clear", "collect", "collectEntries", "contains", "containsKey", "count",
    "countBy",
    "currentTimeMillis", "destroy", "each", "eachFileRecurse", "eachLine", "eachWithIndex",
    "environment", "every", "exists", "find", "findAll", "get", "getAbsoluteFile", "getErrorStream",
    "getFileName", "getInputStream", "getName", "getOutputStream", "getParentFile", "getPath",
    "getText", "getValue", "isBlank", "isDirectory", "isEmpty", "isFile", "isNaN", "join",
    "keySet", "max", "mkdirs", "padRight", "println", "put", "replace", "replaceFirst",
    "resolveSibling", "setText", "size", "sort", "split", "start", "startsWith", "sum",
    "synchronizedList", "takeRight",
    "toFile", "toString", "trim", "unique", "values", "waitFor", "withDefault",
}  # fmt: skip
